"""Scores of groups: what each member's filters are worth, summed over the members that are targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.errors import InputError
from torchthin.groups import Group, Member
from torchthin.importance import norms as norms  # registers its criteria
from torchthin.importance.registry import Criterion, criterion

FloatArray = npt.NDArray[np.float64]


def filter_rows(weight: Tensor, axis: int) -> Tensor:
    """Return `weight` as (size of `axis`, everything else), in logical order whatever the memory format."""
    return weight.detach().movedim(axis, 0).flatten(1)


def widened(weight: Tensor) -> Tensor:
    """Return `weight` in at least float32: sums of half-precision numbers lose digits and overflow."""
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight


def is_filter_member(member: Member, filter_axes: Mapping[str, int]) -> bool:
    """Whether `member` is the filter axis of a target, not an axis that merely follows."""
    return filter_axes.get(member.parameter) == member.axis


def _member_rows(member: Member, weight: Tensor) -> Tensor:
    """Return all weights of each channel: (channels, indices per channel * weights per index)."""
    rows = filter_rows(weight, member.axis)
    flat = np.ascontiguousarray(member.indices.reshape(-1))
    if not np.array_equal(flat, np.arange(rows.shape[0])):
        rows = rows.index_select(0, torch.from_numpy(flat).to(rows.device))
    return rows.reshape(member.indices.shape[0], -1)


def _member_scores(member: Member, weight: Tensor, score: Criterion) -> FloatArray:
    scores = score(widened(_member_rows(member, weight))).to("cpu", torch.float64).numpy()
    if not np.isfinite(scores).all():
        raise InputError(
            f"The weight {member.parameter} gives channel scores that are not finite: it holds NaN, "
            "infinite or overflowing numbers. Load weights of a training run that has not diverged."
        )
    return np.asarray(scores, dtype=np.float64)


def group_scores(
    groups: Iterable[Group], weights: Mapping[str, Tensor], filter_axes: Mapping[str, int], norm: str = "l1"
) -> dict[str, FloatArray]:
    """Return one score per channel of every group that has a target among its members.

    The score of a channel is the sum over those members of the criterion over all weights of the member's
    filters. For a group of one member this is Distiller's ranking.

    groups: channels to rank. weights: parameter name -> tensor. filter_axes: target name -> its filter axis;
    members on other axes follow but have no say. norm: name of a registered criterion.
    Returns group name -> float64 (channels,). Raises `InputError` for weights that are not finite.
    """
    score = criterion(norm)
    scores: dict[str, FloatArray] = {}
    for group in groups:
        members = [member for member in group.members if is_filter_member(member, filter_axes)]
        if members:
            total = np.zeros(group.size)
            for member in members:
                covered = slice(None) if member.channels is None else member.channels
                total[covered] += _member_scores(member, weights[member.parameter], score)
            scores[group.name] = total
    return scores
