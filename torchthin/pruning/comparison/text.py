"""A comparison as a table with the answer in one line, and as a picture (extra ``plot``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchthin.graph.cost import macs_unit
from torchthin.pruning.comparison.comparison import COSTS, WITHIN, Comparison, Row
from torchthin.report.tables import table


def comparison_text(found: Comparison, cost: str = "macs", within: float = WITHIN) -> str:
    """Return the table and the answer as lines of ASCII."""
    failed = [f"Failed, {row.name}: {row.failure}" for row in found.rows if row.failure is not None]
    noted = [f"Note, {row.name}: {'; '.join(row.notes)}." for row in (found.dense, *found.rows) if row.notes]
    lines = [
        *_table(found, cost),
        "",
        _value_line(found),
        f"* no other row is as good and has as few {COSTS[cost].name}."
        if cost != "latency"
        else "* no other row is as good and as quick.",
        answer_line(found, cost, within),
    ]
    return "\n".join([*lines, *failed, *noted, *(f"Note: {note}" for note in found.notes)])


def answer_line(found: Comparison, cost: str = "macs", within: float = WITHIN) -> str:
    """Return the smallest model that is near enough to the dense one, in one line."""
    near = f"within {100 * within:g} % of dense" if found.labelled else f"within a distance of {within:g}"
    row = found.smallest(within, cost)
    what = f"Smallest in {COSTS[cost].name} {near}"
    if row is None:
        return f"{what}: none of the candidates."
    value = f"{found.metric} {row.value:.4g}" if found.labelled else f"distance {row.value:.3g}"
    macs, parameters = (
        _share(getattr(row, name), getattr(found.dense, name)) for name in ("macs", "parameters")
    )
    return f"{what}: {row.name} ({macs} of the MACs, {parameters} of the parameters, {value})."


def _share(now: int | None, before: int | None) -> str:
    return f"{100 * (now or 0) / before:.1f} %" if before else "all"


def _value_line(found: Comparison) -> str:
    if found.labelled:
        return f"{found.metric}: higher is better."
    return "distance: mean squared error of the outputs in units of the dense outputs' variance; lower is better."


def _table(found: Comparison, cost: str) -> list[str]:
    rows = sorted(found.rows, key=lambda row: (row.failure is not None, -(row.macs or 0)))
    every = (found.dense, *rows)
    best = found.front(cost)
    headings = ("", "method", "criterion", "target")
    figures = [
        macs_unit(found.dense.macs_per_sample),
        "parameters",
        "bytes",
        "channel sparsity",
        "metric" if found.labelled else "distance",
    ]
    shows_latency = any(row.latency_ms is not None for row in every)
    shows_cycles = any(row.cycles is not None for row in every)
    figures += ["latency ms"] * shows_latency + ["of dense"] * shows_latency + ["cycles"] * shows_cycles
    lines = []
    for row in every:
        mark = "*" if row in best else "failed" if row.failure is not None else ""
        cells = _cells(row, shows_latency, shows_cycles)
        lines.append((mark, row.method, row.criterion, row.target, *cells, f"{row.seconds:.1f}"))
    return table((*headings, *figures, "seconds"), lines, left=range(len(headings)))


def _cells(row: Row, latency: bool, cycles: bool) -> list[str]:
    cells = [f"{n:,}" if n is not None else "" for n in (row.macs, row.parameters, row.parameter_bytes)]
    cells.append("" if row.channel_sparsity is None else f"{100 * row.channel_sparsity:.1f} %")
    cells.append("" if row.value is None else f"{row.value:.4g}")
    share = COSTS["latency"].of(row)
    if latency:
        cells += ["", ""] if share is None else [f"{row.latency_ms:.3f}", f"{100 * share:.0f} %"]
    if cycles:
        cells.append("" if row.cycles is None else f"{row.cycles:,}")
    return cells


def draw(found: Comparison, path: Path, cost: str = "macs") -> None:
    """Write a PNG: one mark for each candidate, a line through the front."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    ax: Any = figure.add_subplot()
    kinds: dict[str, list[Row]] = {}
    for row in found.rows:
        kinds.setdefault(f"{row.method} {row.criterion}", []).append(row)
    front = found.front(cost)  # a staircase: the best value for at most so much cost
    x, y = [COSTS[cost].of(row) for row in front], [row.value for row in front]
    ax.step(x, y, where="post", color="0.6", label="front", zorder=0)
    for (name, rows), mark in zip(kinds.items(), "osD^vP*Xp<>h" * len(kinds), strict=False):
        _points(ax, rows, cost, marker=mark, label=name)
    _points(ax, [found.dense], cost, marker="s", color="black", label="dense")
    ax.set_xlabel(macs_unit(found.dense.macs_per_sample) if cost == "macs" else COSTS[cost].axis)
    ax.set_ylabel(found.metric if found.labelled else "distance to the dense outputs", parse_math=False)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize=8)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=200, format="png")


def _points(ax: Any, rows: list[Row], cost: str, **style: Any) -> None:
    found = [(COSTS[cost].of(row), row.value) for row in rows]
    known = [(x, y) for x, y in found if x is not None and y is not None]
    if known:
        ax.plot(*zip(*known, strict=True), linestyle="none", **style)
