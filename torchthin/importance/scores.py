"""Scores of groups: what a criterion says of the channels of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from torchthin.dependency.groups import Group, Member
from torchthin.errors import ConfigError, InputError
from torchthin.importance import data as data  # registers its criteria
from torchthin.importance import filters as filters
from torchthin.importance import group_weights as group_weights
from torchthin.importance import norms as norms
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
