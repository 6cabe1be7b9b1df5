"""PNG plots of a run's record for papers and slides. Needs the extra ``plot``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchthin.errors import InputError

DPI = 200


def check_plots() -> None:
    """Raise InputError when matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("Plots need matplotlib. Install the extra: pip install 'torchthin[plot]'.")


def plots(record: Mapping[str, Any]) -> dict[str, Callable[[Path], None]]:
    """Return what can be drawn of a record: file name -> what writes it."""
    drawn: dict[str, Callable[[Any], tuple[float, float]]] = {
        "layers.png": lambda ax: _layers(ax, record["report"])
    }
    if len(record["report"]["schedule"]) > 1:
        drawn["schedule.png"] = lambda ax: _schedule(ax, record["report"])
    if (record.get("sensitivity") or {}).get("groups"):
        drawn["sensitivity.png"] = lambda ax: _sensitivity(ax, record["sensitivity"])
    return {name: _writer(draw) for name, draw in drawn.items()}


def _writer(draw: Callable[[Any], tuple[float, float]]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        size = draw(figure.add_subplot())
        figure.set_size_inches(*size)
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=DPI, format="png")

    return write


def _layers(ax: Any, report: Mapping[str, Any]) -> tuple[float, float]:
    layers = report["layers"][::-1]
    names = [layer["name"] for layer in layers]
    places = range(len(layers))
    kept = [1 - layer["channel_sparsity"] for layer in layers]
    zeroed = [layer["weight_sparsity"] for layer in layers]
    ax.barh([p + 0.2 for p in places], kept, 0.4, label="channels kept", color="#0b63ce")
    ax.barh([p - 0.2 for p in places], zeroed, 0.4, label="weights zeroed or removed", color="#d98324")
    ax.set_yticks(list(places), names, fontsize=7, parse_math=False)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return 6.0, 1.2 + 0.2 * len(layers)


def _schedule(ax: Any, report: Mapping[str, Any]) -> tuple[float, float]:
    steps = [0.0, *report["schedule"]]
    ax.plot(range(len(steps)), steps, marker="o", markersize=3, color="#0b63ce")
    ax.set_xlabel("step")
    ax.set_ylabel("sparsity")
    ax.set_ylim(bottom=0)
    return 4.5, 3.0


def _sensitivity(ax: Any, table: Mapping[str, Any]) -> tuple[float, float]:
    groups = sorted(table["groups"], key=lambda group: -max(group["losses"], default=0.0))
    for number, group in enumerate(groups):
        shares = [0.0, *(removed / group["size"] for removed in group["gone"])]
        named = group["name"].lstrip("_") if number < 8 else None  # the legend names the most sensitive
        ax.plot(shares, [0.0, *group["losses"]], linewidth=1, label=named, alpha=1.0 if number < 8 else 0.35)
    ax.set_xlabel("share of the group's channels that is removed")
    ax.set_ylabel(f"loss ({table['metric']})", parse_math=False)
    ax.legend(fontsize=6, frameon=False)
    return 6.0, 4.0
