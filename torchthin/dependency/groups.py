"""Groups: channels of several tensors that are removed together, and what is frozen, with the reason.

A *channel* of a group is one unit of decision. A *member* says which indices of one parameter axis are removed with each channel:

    conv1 (24 filters) -> bn -> flatten of 4x4 -> fc
    Group(size=24, members=(
        Member("conv1.weight", 0, [[0], [1], ...]),        one index per channel
        Member("bn.weight",    0, [[0], [1], ...]),
        Member("fc.weight",    1, [[0..15], [16..31], ...])))   sixteen columns per channel
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Member:
    """The indices of one parameter (or buffer) axis that are removed with the channels of a group."""

    parameter: str
    """Name as in ``state_dict``."""
    axis: int
    indices: IntArray
    """Shape (channels, indices per channel), int64."""
    channels: IntArray | None = None
    """Shape (channels,): the group's channels that the rows of `indices` belong to. None: all, in order."""

    def removed(self, keep: npt.NDArray[np.bool_]) -> IntArray:
        """Return the axis indices that are removed, given which channels of the group are kept, shape (n,)."""
        channels = ~(keep if self.channels is None else keep[self.channels])
        return self.indices[channels].reshape(-1)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that must be decided once for all their members."""

    name: str
    """The first member's parameter, made unique."""
    size: int
    """Number of channels."""
    members: tuple[Member, ...]
    balances: tuple[IntArray, ...] = ()
    """Each of shape (rows, n): channel numbers, -1 for what cannot be removed. Equal numbers are removed from every row."""
    multiple: int = 1
    """What is kept of every axis that is cut is a multiple of it, since a kernel takes no other sizes."""


@dataclass(frozen=True)
class Frozen:
    """Why indices of one parameter axis may not be pruned."""

    parameter: str
    axis: int
    count: int
    """Number of frozen indices on the axis for this reason."""
    reason: str
    """Op, module path and source line, in words."""


@dataclass(frozen=True)
class ChannelGroups:
    """All groups of a model, and all that is frozen."""

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...] = field(default=())


def uncoupled(parameter: str, axis: int, size: int) -> Group:
    """Return a group with `parameter` as its only member: one channel for each of the `size` indices of `axis`."""
    return Group(parameter, size, (Member(parameter, axis, np.arange(size, dtype=np.int64)[:, None]),))
