"""Groups after a thinning: the channels that remain, counted as in the thinned model; and groups as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from torchthin.dependency.groups import Group, IntArray, Member
from torchthin.selection.selection import BoolArray
from torchthin.thinning.recipe import Recipe


def remaining_channels(group: Group, recipe: Recipe) -> BoolArray:
    """Return which channels of a full-size group the recipe keeps, shape (channels,)."""
    kept = np.ones(group.size, np.bool_)
    for member in group.members:
        if member.axis in recipe.keep.get(member.parameter, {}):
            removed = (_indices_after(member, recipe) < 0).any(axis=1)
            kept[_channels(member, group)[removed]] = False
    return kept


def cut_group(group: Group, recipe: Recipe, kept: BoolArray) -> Group:
    """Return what a recipe leaves of a full-size group.

    Channels and indices are counted as in the thinned model. kept: of `remaining_channels`.
    """
    if kept.all():
        return group
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    members = []
    for member in group.members:
        rows = kept[_channels(member, group)]
        channels = None if member.channels is None else number[member.channels[rows]]
        members.append(Member(member.parameter, member.axis, _indices_after(member, recipe)[rows], channels))
    balances = tuple(_balance_after(balance, number) for balance in group.balances)
    return replace(group, size=int(kept.sum()), members=tuple(members), balances=balances)


def _channels(member: Member, group: Group) -> IntArray:
    return np.arange(group.size, dtype=np.int64) if member.channels is None else member.channels


def _indices_after(member: Member, recipe: Recipe) -> IntArray:
    """Return the member's indices in the thinned axis, -1 for removed ones."""
    kept = recipe.keep.get(member.parameter, {}).get(member.axis)
    if kept is None:
        return member.indices
    table = np.full(recipe.shapes[member.parameter][member.axis], -1, np.int64)
    table[list(kept)] = np.arange(len(kept))
    return np.asarray(table[member.indices])


def _balance_after(balance: IntArray, number: IntArray) -> IntArray:
    """Return a balance without the removed channels; as many were removed from every row."""
    rows = [[number[c] if c >= 0 else -1 for c in row if c < 0 or number[c] >= 0] for row in balance.tolist()]
    width = max(map(len, rows))
    return np.array([row + [-1] * (width - len(row)) for row in rows], np.int64)


def group_to_dict(group: Group) -> dict[str, Any]:
    """Return a group as tensors and plain types."""
    members = [{key: _tensor(value) for key, value in vars(member).items()} for member in group.members]
    return {**vars(group), "members": members, "balances": list(map(_tensor, group.balances))}


def group_from_dict(entry: Mapping[str, Any]) -> Group:
    """Return the group that `group_to_dict` wrote."""
    members = (Member(**{key: _array(value) for key, value in item.items()}) for item in entry["members"])
    balances = tuple(map(_array, entry["balances"]))
    return Group(entry["name"], entry["size"], tuple(members), balances, entry.get("multiple", 1))


def _tensor(value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _array(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
