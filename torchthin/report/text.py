"""Facts -> text: one table in plain ASCII, so that it prints on every terminal and pastes into Markdown."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table

from torchthin.report.facts import PruneReport

_WIDTH = 10_000
"""Wider than any table: names are never cut."""


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _layer_table(report: PruneReport) -> Table:
    table = Table(box=box.MARKDOWN)
    table.add_column("weight")
    for heading in ("shape", "channels pruned", "channel sparsity", "weights zeroed", "weight sparsity"):
        table.add_column(heading, justify="right")
    for layer in report.layers:
        table.add_row(
            layer.name,
            "x".join(map(str, layer.shape)),
            f"{layer.pruned_channels} of {layer.filters}",
            _percent(layer.channel_sparsity),
            f"{layer.zeroed_weights:,} of {layer.weights:,}",
            _percent(layer.weight_sparsity),
        )
    table.add_row(
        "total",
        "",
        f"{report.pruned_channels} of {report.filters}",
        _percent(report.channel_sparsity),
        f"{report.zeroed_weights:,} of {report.weights:,}",
        _percent(report.weight_sparsity),
    )
    return table


def _summary(report: PruneReport) -> list[str]:
    unit = "channels" if report.structured else "weights"
    achieved = report.channel_sparsity if report.structured else report.weight_sparsity
    where = "over all groups together" if report.scope == "global" else "per layer, rounded down"
    compat = f", as {report.compat}" if report.compat else ""
    asked = (
        f"{report.method}{compat}: asked {_percent(report.target_sparsity)} of the {unit} ({where}), "
        f"achieved {_percent(achieved)}" + ("." if report.target_reached else ": TARGET MISSED.")
    )
    for section in report.sections:
        asked = f"{report.method}: channels {section.choice}, {_percent(achieved)} of them go."
    if report.budgets:
        where = "by score over all groups" if report.scope == "global" else "the same share of every group"
        asked = (
            f"{report.method}: {_percent(achieved)} of the channels go to stay within the budget ({where})."
        )
    lines = [
        *map(str, report.budgets),
        *map(str, report.sections),
        asked,
        f"All parameters: {report.zeroed_weights:,} of {report.parameters:,} zeroed "
        f"({_percent(report.model_weight_sparsity)}); {report.parameter_bytes:,} bytes.",
    ]
    lines += _thinning(report)
    if report.recovery is not None:
        lines += [str(report.recovery), *(f"Note: {note}" for note in report.recovery.notes)]
    if report.kept:
        lines.append(f"Kept whole as asked: {', '.join(report.kept)}.")
    return lines + [f"Note: {note}" for note in report.notes]


def _change(name: str, before: int, after: int) -> str:
    return f"{name} {before:,} -> {after:,} ({_percent(after / before if before else 1.0)})"


def _thinning(report: PruneReport) -> list[str]:
    """What removing the channels brought, and the proof."""
    if report.thinned_parameters is None or report.thinned_parameter_bytes is None:
        return []
    parts = [
        _change("parameters", report.parameters, report.thinned_parameters),
        _change("bytes", report.parameter_bytes, report.thinned_parameter_bytes),
    ]
    if report.macs is not None and report.thinned_macs is not None:
        parts.append(_change("MACs", report.macs, report.thinned_macs))
    lines = [f"Thinned: {', '.join(parts)}."]
    if report.proof is None:
        return [*lines, "Nothing was removed."]
    proof = report.proof
    lines.append(
        f"Proof ({proof.dtype}, example and fresh random inputs): the thinned model is off by {proof.relative:.1e} of the "
        f"output's largest value from the masked model with its dead channels as constants, by "
        f"{proof.relative_to_masked:.1e} from the masked model as it is."
    )
    if report.inexact:
        shown = "; ".join(report.inexact[:3])
        more = f"; and {len(report.inexact) - 3} more" if len(report.inexact) > 3 else ""
        lines.append(f"Not exact by nature: {shown}{more}.")
    return lines


def report_text(report: PruneReport) -> str:
    """Return the table of `report` and its totals as lines of ASCII without colour."""
    return "\n".join([*table_lines(_layer_table(report)), "", *_summary(report)])


def table_lines(table: Table) -> list[str]:
    """Return a table as lines of text without colour."""
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, color_system=None, markup=False, highlight=False)
    console.print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]
