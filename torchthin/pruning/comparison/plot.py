"""A comparison -> a picture: value against cost, with the front. Needs the extra ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchthin.pruning.comparison.comparison import Comparison
from torchthin.pruning.comparison.row import COSTS, Row

_AXES = {
    "macs": "multiply-accumulates",
    "parameters": "parameters",
    "bytes": "bytes of parameters",
    "latency": "latency, as a share of the dense model's",
    "cycles": "chip cycles",
}


def draw(found: Comparison, path: Path, cost: str = "macs") -> None:
    """Write a PNG: one mark for each candidate, a line through the front."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.add_subplot()
    ways: dict[str, list[Row]] = {}
    for row in found.rows:
        ways.setdefault(f"{row.method} {row.criterion}", []).append(row)
    _step(ax, found.front(cost), cost)
    for (name, rows), mark in zip(ways.items(), "osD^vP*Xp<>h" * len(ways), strict=False):
        _points(ax, rows, cost, marker=mark, label=name)
    _points(ax, [found.dense], cost, marker="s", color="black", label="dense")
    ax.set_xlabel(_AXES[cost])
    ax.set_ylabel(found.metric if found.labelled else "distance to the dense outputs", parse_math=False)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize=8)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=200, format="png")


def _points(ax: Any, rows: list[Row], cost: str, **style: Any) -> None:
    found = [(COSTS[cost](row), row.value) for row in rows]
    whole = [(x, y) for x, y in found if x is not None and y is not None]
    if whole:
        ax.plot(*zip(*whole, strict=True), linestyle="none", **style)


def _step(ax: Any, best: tuple[Row, ...], cost: str) -> None:
    """Draw the best value for at most so much cost: a staircase."""
    ax.step(
        [COSTS[cost](row) for row in best],
        [row.value for row in best],
        where="post",
        color="0.6",
        label="front",
        zorder=0,
    )
