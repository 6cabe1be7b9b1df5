"""What a target asks of every weight, and what the report notes on a selection: what stayed, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from torchthin.config import PruneConfig
from torchthin.importance.scores import FALLBACK, Ranking
from torchthin.report.from_masks import Filters
from torchthin.selection.selection import Selection
from torchthin.thinning.search.trial_loop import ThinningPlan


def asked_of_groups(
    selection: Selection, config: PruneConfig, masks: Iterable[str]
) -> tuple[dict[str, Filters], int]:
    """Return what the target asks for, per weight and in all: not what rounding takes off, nor what is frozen."""
    keeps, axes, shares = selection.keeps, selection.masked_axes, selection.shares
    groups = [group for group in selection.groups if group.name in keeps]
    asked = dict.fromkeys(masks, 0)
    total = 0
    for group in groups:
        decided = bool(group.balances) or group.multiple > 1 or not config.target.exact
        count = (
            int((~keeps[group.name]).sum())
            if decided
            else config.target.units(group.size, shares.get(group.name))
        )
        total += count
        for member in group.members:
            if axes.get(member.parameter) == member.axis and member.parameter in asked:
                lost = member.removed(keeps[group.name]).size
                per_weight = decided or config.target.scope == "global"
                asked[member.parameter] += lost if per_weight else count * member.indices.shape[1]
    filters = {name: Filters(axes[name], 1, asked[name]) for name in asked}
    if config.target.scope == "global" and not shares:
        return filters, config.target.units_of_all([group.size for group in groups])
    return filters, sum(asked.values())


_NO_WAY = ("no rule for this operator", "no way to divide it worked")
"""Reasons that keep filters which could have gone, besides what trials found out."""


def with_blocked(
    filters: Mapping[str, Filters], thinning: ThinningPlan, config: PruneConfig
) -> tuple[dict[str, Filters], int]:
    """Add what the target asks of filters that no way was found to remove; return how many those are in all as well.

    Filters that stay by nature, such as those of output layers, are asked nothing.
    """
    proposal, total = thinning.proposal, 0
    found = dict(filters)
    texts = (*_NO_WAY, *(item.text for item in proposal.constraints.frozen.values()))
    for item in proposal.grouping.groups.frozen if config.target.exact else ():
        known = found.get(item.parameter)
        if known is not None and known.axis == item.axis and item.reason.startswith(texts):
            count = config.target.units(item.count)
            found[item.parameter] = replace(known, asked=known.asked + count)
            total += count
    return found, total


def spared(selection: Selection) -> tuple[str, ...]:
    """Say what a model with attention keeps because nothing was chosen."""
    if not selection.spared:
        return ()
    cut = sorted({selection.kinds[group.name] for group in selection.groups if group.name in selection.kinds})
    kept = selection.spared
    return (
        f"Of a model with attention only {' and '.join(cut) or 'heads and mlp'} can go by default; {' and '.join(kept)} "
        f"{'stay' if kept[1:] else 'stays'}. Ask by kind for others, such as Ratio({{{kept[0]!r}: 0.25}}) "
        f"(--ratio {kept[0]}=0.25).",
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"


def fallen_back(ranking: Ranking | None, criterion: str) -> tuple[str, ...]:
    """Say which groups the criterion could not rank."""
    if ranking is None or not ranking.fallen_back:
        return ()
    names = ranking.fallen_back
    return (
        f"{len(names)} of {len(ranking.scores)} groups have nothing that {criterion} looks at; {FALLBACK} ranks them: "
        f"{_listed(names)}.",
    )


def state_biases(biases: list[str]) -> tuple[str, ...]:
    """Say which biases are masked although nobody asked: those of hidden states that are removed."""
    if not biases:
        return ()
    return (
        "The biases of removed hidden states are masked too (they would keep the states moving): "
        f"{_listed(biases)}.",
    )


def frozen_targets(
    found: ThinningPlan, axes: Mapping[str, int], masks: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Say why filters of the masked weights are kept."""
    return tuple(
        f"{item.parameter}: {item.count} filters are kept, {item.reason}."
        for item in found.proposal.grouping.groups.frozen
        if item.parameter in masks and axes.get(item.parameter) == item.axis
    )
