"""Scores of groups: what a criterion says of the channels of each; weights without usable values are refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from torchthin.dependency.groups import Group, Member
from torchthin.errors import ConfigError, InputError
from torchthin.importance import criteria as criteria  # registers its criteria
from torchthin.importance.channels import Channels, FloatArray, Measured
from torchthin.importance.channels import filter_rows as filter_rows
from torchthin.importance.channels import widened as widened
from torchthin.importance.registry import Criterion, criterion

FALLBACK = "l1"
"""What ranks the groups that the criterion asked for cannot rank."""


@dataclass(frozen=True)
class Ranking:
    """Scores of groups by one criterion."""

    scores: dict[str, FloatArray]
    """Group name -> (channels,); higher = keep."""
    absolute: bool = False
    """Scores of different groups compare as they are."""
    fallen_back: tuple[str, ...] = ()
    """Groups that the criterion cannot rank, ranked by `FALLBACK` instead."""


def is_filter_member(member: Member, filter_axes: Mapping[str, int]) -> bool:
    """Whether `member` is the filter axis of a target, not an axis that merely follows."""
    return filter_axes.get(member.parameter) == member.axis


def _is_reader(member: Member, filter_axes: Mapping[str, int]) -> bool:
    """Whether `member` is an axis that a layer sums over: one that makes channels, on another axis than theirs."""
    return filter_axes.get(member.parameter, member.axis) != member.axis


def ranked(
    groups: Iterable[Group],
    values: Mapping[str, Tensor],
    filter_axes: Mapping[str, int],
    name: str = "l1",
    measured: Measured | None = None,
    seed: int = 0,
) -> Ranking:
    """Return the scores, by one criterion, of every group that has a target among its members.

    groups: channels to rank. values: parameters (and buffers) by name. filter_axes: target name -> its filter axis;
    members on other axes follow, and have a say only in criteria of the whole group. name: a registered criterion.
    measured: statistics from data, for criteria that need them. seed: for `random`.

    Raises:
        InputError: weights that are not finite.
        ConfigError: an unknown criterion, one that needs data without them, or one that can rank no group at all.
    """
    rule = criterion(name)
    if rule.needs_data and measured is None:
        raise ConfigError(
            f"The criterion {name!r} of prune needs data. Give data=[...] (on the command line --data), or choose l1 or l2."
        )
    scores: dict[str, FloatArray] = {}
    fallen = []
    for group in groups:
        makers = tuple(member for member in group.members if is_filter_member(member, filter_axes))
        if makers:
            readers = tuple(member for member in group.members if _is_reader(member, filter_axes))
            channels = Channels(group, makers, values, measured, seed, readers)
            found = _scores(rule, channels)
            if found is None:
                fallen.append(group.name)
                found = _scores(criterion(FALLBACK), channels)
            assert found is not None
            scores[group.name] = found
    if fallen and len(fallen) == len(scores):
        raise ConfigError(
            f"The criterion {name!r} of prune can rank no channel of this model, such as those of {fallen[0]}: the "
            "layers it looks at are not in the group (with no example_inputs, no group has any). Choose l1 or l2."
        )
    return Ranking(scores, rule.absolute and not fallen, tuple(fallen))


def _scores(rule: Criterion, channels: Channels) -> FloatArray | None:
    if rule.of_rows is not None:
        return np.asarray(channels.summed(rule.of_rows).numpy())
    assert rule.of_channels is not None
    found = rule.of_channels(channels)
    if found is None:
        return None
    if not bool(found.isfinite().all()):
        raise InputError(
            f"The criterion {rule.name!r} gives scores of {channels.group.name} that are not finite. "
            "The weights or the data hold NaN, infinite or overflowing numbers."
        )
    return np.asarray(found.double().cpu().numpy())


def group_scores(
    groups: Iterable[Group], weights: Mapping[str, Tensor], filter_axes: Mapping[str, int], norm: str = "l1"
) -> dict[str, FloatArray]:
    """Return one score per channel of every group that has a target among its members; see `ranked`.

    For a group of one member and l1 or l2 this is Distiller's ranking.
    """
    return ranked(groups, weights, filter_axes, norm).scores


def _refuse_bad_values(name: str, parameter: Tensor, ranked: bool) -> None:
    """Raise when `parameter` holds NaN, or infinity where it is `ranked`."""
    # One pass at memory speed: a sum is finite unless it overflows or something in it is not.
    if bool(parameter.sum().isfinite()):
        return
    nans, infinite = int(parameter.isnan().sum()), int(parameter.isinf().sum())
    if nans or (infinite and ranked):
        raise InputError(
            f"The weight {name} holds {nans} NaN and {infinite} infinite of {parameter.numel()} values. "
            "Load weights of a training run that has not diverged."
        )


def check_values(model: nn.Module, ranked: Collection[str]) -> None:
    """Raise `InputError` for parameters without values (meta device), with NaN, or infinite in `ranked`."""
    floating = {
        name: p.detach() for name, p in model.named_parameters() if p.is_floating_point() and p.numel()
    }
    for name, parameter in floating.items():
        if parameter.is_meta:
            raise InputError(
                f"The weight {name} is on the meta device and has no values. Load the weights first."
            )
    for name, parameter in floating.items():
        # Types of fewer bits than float16 have no sum, and are never ranked.
        if parameter.element_size() > 1:
            _refuse_bad_values(name, parameter, name in ranked)
