"""Where a thinned model is another function than the masked one, in words."""

from __future__ import annotations

from torchthin.graph.opgraph import Op
from torchthin.thinning.constants import Absorptions
from torchthin.thinning.proof.reference import Departures
from torchthin.thinning.survivors import Survivors


def inexact_layers(departures: Departures, absorptions: Absorptions, survivors: Survivors) -> tuple[str, ...]:
    """Name the layers where the thinned model is another function than the masked one, with the cause."""
    statistics = [
        f"{_where(op)}: statistics run over fewer channels ({_kept(op, survivors)})"
        for op in departures.left_out.values()
    ]
    borders = [
        f"{_where(constant.op)}: a constant of removed channels meets the border"
        for constant in departures.constants.values()
        if constant.bordered
    ]
    rounded = [
        f"{item.name}: the constant of removed channels is scaled and rounded with it"
        for item in absorptions.in_all_runs
        if item.through_function
    ]
    return tuple(dict.fromkeys(statistics + borders + rounded))


def _where(op: Op) -> str:
    return op.source.module or op.name


def _kept(op: Op, survivors: Survivors) -> str:
    """Return how many channels of an op's data are left, in words."""
    kept = next((kept for value in op.reads for kept in survivors.cut_axes(value).values()), None)
    return "" if kept is None else f"{int(kept.sum())} of {kept.size}"
