"""Groups after a thinning: the same channels, counted anew."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from torchthin.dependency.groups import Group, IntArray, Member
from torchthin.graph.clone import clone
from torchthin.thinning.recipe import Recipe

BoolArray = npt.NDArray[np.bool_]


def staying(group: Group, recipe: Recipe) -> BoolArray:
    """Return which channels of a full-size group the recipe leaves, shape (channels,)."""
    stay = np.ones(group.size, np.bool_)
    for member in group.members:
        if member.axis in recipe.keep.get(member.parameter, {}):
            gone = (_after(member, recipe) < 0).any(axis=1)
            stay[_channels(member, group)[gone]] = False
    return stay


def shrunk(group: Group, recipe: Recipe) -> Group:
    """Return what a recipe leaves of a full-size group; channels and indices are counted as in the thinned model."""
    stay = staying(group, recipe)
    if stay.all():
        return group
    number = np.where(stay, np.cumsum(stay) - 1, -1)
    members = []
    for member in group.members:
        rows = stay[_channels(member, group)]
        covered = None if member.channels is None else number[member.channels[rows]]
        members.append(Member(member.parameter, member.axis, _after(member, recipe)[rows], covered))
    balances = tuple(_shrunk_balance(balance, number) for balance in group.balances)
    return Group(group.name, int(stay.sum()), tuple(members), balances)


def _channels(member: Member, group: Group) -> IntArray:
    return np.arange(group.size, dtype=np.int64) if member.channels is None else member.channels


def _after(member: Member, recipe: Recipe) -> IntArray:
    """Return the member's indices in the thinned axis, -1 for those that are gone."""
    kept = recipe.keep.get(member.parameter, {}).get(member.axis)
    if kept is None:
        return member.indices
    table = np.full(recipe.shapes[member.parameter][member.axis], -1, np.int64)
    table[list(kept)] = np.arange(len(kept))
    return np.asarray(table[member.indices])


def _shrunk_balance(balance: IntArray, number: IntArray) -> IntArray:
    """Drop the channels that are gone; as many are from every row."""
    rows = [[number[c] if c >= 0 else -1 for c in row if c < 0 or number[c] >= 0] for row in balance.tolist()]
    width = max(map(len, rows))
    return np.array([row + [-1] * (width - len(row)) for row in rows], np.int64)


def full_size(model: nn.Module, recipe: Recipe | None) -> nn.Module:
    """Return a stand-in with the shapes that a model had before the recipe thinned it; its values take no memory."""
    if recipe is None:
        return model

    def exchange(name: str, tensor: Tensor) -> Tensor:
        shape = recipe.shapes.get(name, tuple(tensor.shape))
        return tensor.detach().new_zeros(()).expand(shape)

    whole = clone(model, exchange)
    for name in recipe.added:
        path, _, local = name.rpartition(".")
        setattr(whole.get_submodule(path), local, None)
    return whole
