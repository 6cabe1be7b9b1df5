"""The record of a run -> one HTML file: inline SVG, no script, nothing loaded from anywhere.

All text of the model (names, reasons, notes) is escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchthin.report.diagram import diagram
from torchthin.report.sections import LatencyFacts

_CHIP_FIGURES = (
    ("cycles", "cycles"),
    ("deepest_words", "words of the deepest processor"),
    ("weight_bytes", "weight bytes on the chip"),
)


@dataclass(frozen=True)
class Figure:
    """One number before and after."""

    label: str
    before: float
    after: float | None
    uniform: float | None = None
    """What a uniform cut would give."""

    @property
    def left(self) -> float | None:
        """Share that is left."""
        return None if self.after is None or not self.before else self.after / self.before


@dataclass(frozen=True)
class Curve:
    """Points of a line, in the units of a 100 x 60 box, the origin above left."""

    name: str
    points: str
    note: str


def render_page(record: Mapping[str, Any]) -> str:
    """Return the HTML page of what `torchthin.report.record.run_record` made."""
    from jinja2 import ChainableUndefined, Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("torchthin.report"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, number=_number, error=_error)
    report = record["report"]
    network = record.get("network")
    return environment.get_template("page.html.j2").render(
        record=record,
        report=report,
        figures=_figures(report),
        latency=_latency(report.get("budgets") or []),
        chip=_chip(report.get("chip")),
        diagram=None if not network else diagram(network),
        frozen=[] if not network else network["frozen"],
        layers={layer["name"]: layer for layer in report["layers"]},
        schedule=_schedule(report["schedule"]),
        curves=_curves(record.get("sensitivity")),
        settings={k: v for k, v in record["config"].items() if v not in (None, [], (), False)},
    )


def _latency(budgets: list[dict[str, Any]]) -> list[str]:
    """Return what the text of the report says of budgets of time: with units, noise and device."""
    return [str(LatencyFacts(**budget)) for budget in budgets if budget["name"] == "latency"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return f"{value:,.4f}" if isinstance(value, float) and not value.is_integer() else f"{value:,.0f}"


def _error(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.1e}"


def _figures(report: Mapping[str, Any]) -> list[Figure]:
    per_sample = report.get("macs_per_sample")  # not in records of older releases
    of = "" if per_sample is None else " per sample" if per_sample else " of the whole example"
    names = (
        ("parameters", "parameters"),
        ("macs", f"multiply-accumulates{of}"),
        ("parameter_bytes", "bytes of parameters"),
    )
    return [
        Figure(label, report[key], report.get(f"thinned_{key}"))
        for key, label in names
        if report.get(key) is not None
    ]


def _chip(chip: Mapping[str, Any] | None) -> list[Figure]:
    if not chip:
        return []
    return [
        Figure(label, chip["before"][key], chip["after"][key], chip["uniform"][key])
        for key, label in _CHIP_FIGURES
        if key in chip["before"]
    ]


def _schedule(steps: list[float]) -> Curve | None:
    """Draw the sparsity over the steps, from 0; None for a single step."""
    if len(steps) < 2:
        return None
    top = max(steps) or 1.0
    points = [(0.0, 0.0), *((step / len(steps), value / top) for step, value in enumerate(steps, 1))]
    return Curve("schedule", _points(points), f"{100 * max(steps):.1f} %")


def _curves(table: Mapping[str, Any] | None) -> list[Curve]:
    """Draw the loss of every group over the share of it that is removed, all to one scale, the most sensitive first."""
    if not table or not table["groups"]:
        return []
    top = max((max(group["losses"], default=0.0) for group in table["groups"]), default=0.0) or 1.0
    found = []
    for group in sorted(table["groups"], key=lambda group: -max(group["losses"], default=0.0)):
        pairs = zip(group["gone"], group["losses"], strict=True)
        points = [(0.0, 0.0), *((removed / group["size"], max(loss, 0.0) / top) for removed, loss in pairs)]
        worst = max(group["losses"], default=0.0)
        found.append(Curve(group["name"], _points(points), f"up to {worst:.3g}"))
    return found


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{100 * x:.2f},{60 - 60 * min(y, 1.0):.2f}" for x, y in points)
