"""What `inspect` found -> text: a table of groups, then what stays and why, one line each."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from torchthin.report.inspection_facts import GroupFacts, Inspection
from torchthin.report.text import table_lines

_SHOWN = 4
"""Members of a group, and unused parameters, that are named; of the rest the number is given."""


def inspection_text(inspection: Inspection) -> str:
    """Return groups, frozen filters, operators without a rule and unused parameters as plain lines."""
    lines = table_lines(_group_table(inspection.groups)) if inspection.groups else []
    return "\n".join([*lines, *([""] if lines else []), *_summary(inspection)])


def _group_table(groups: Sequence[GroupFacts]) -> Table:
    table = Table(box=box.MARKDOWN)
    table.add_column("group")
    table.add_column("channels", justify="right")
    for heading in ("filters of", "cut with them", "equal parts"):
        table.add_column(heading)
    for group in groups:
        table.add_row(
            group.name,
            str(group.channels),
            _some(group.makers),
            _some(group.followers),
            "yes" if group.balanced else "",
        )
    return table


def _summary(inspection: Inspection) -> list[str]:
    count = len(inspection.groups)
    proved = (
        "a trial cut of half of every group ran and agreed with the masked model"
        if inspection.proved and count
        else "no trial cut was made"
    )
    lines = [f"{count} groups of {inspection.prunable} channels can be pruned; {proved}."]
    if not inspection.prunable:
        lines = ["Nothing can be pruned."]
    lines += [
        f"Frozen: {item.channels} filters of {item.weight}, {item.reason}." for item in inspection.frozen
    ]
    if inspection.unknown_ops:
        lines.append(f"Operators without a rule, what goes in stays: {', '.join(inspection.unknown_ops)}.")
    if inspection.unused:
        lines.append(f"Parameters that the run did not use, they stay whole: {_some(inspection.unused)}.")
    return lines


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
