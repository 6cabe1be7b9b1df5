"""What a criterion sees of the channels of one group: read only, computed when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.dependency.groups import Group, Member
from torchthin.errors import InputError
from torchthin.importance.registry import RowScore

FloatArray = npt.NDArray[np.float64]


class Measured(Protocol):
    """What running the model on data tells of channels."""

    def effects(self, parameter: str, axis: int) -> FloatArray:
        """Return sum(w * g) over all weights of each index of an axis, for every draw of g: (draws, size of axis)."""

    def magnitudes(self, group: Group) -> FloatArray:
        """Return the mean absolute value of every channel where it is consumed, shape (channels,)."""

    def removal_errors(self, group: Group) -> Tensor | None:
        """Return for each channel the error of the refitted consumers when it and all before it go; None: no consumers."""


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of one group, as a criterion sees them."""

    group: Group
    makers: tuple[Member, ...]
    """The filter axes of the targets among the members: the weights that make the channels."""
    values: Mapping[str, Tensor]
    """Parameters and buffers by name."""
    measured: Measured | None = None
    """Statistics from data; there for criteria that need data."""
    seed: int = 0
    readers: tuple[Member, ...] = ()
    """The axes that other layers sum over: their weights take the channels in."""

    def rows(self, member: Member) -> Tensor:
        """Return all weights of each channel of a member: (channels, indices per channel * weights per index)."""
        rows = filter_rows(self.values[member.parameter], member.axis)
        flat = np.ascontiguousarray(member.indices.reshape(-1))
        if not np.array_equal(flat, np.arange(rows.shape[0])):
            rows = rows.index_select(0, torch.from_numpy(flat).to(rows.device))
        return widened(rows.reshape(member.indices.shape[0], -1))

    @property
    def scales(self) -> tuple[Member, ...]:
        """The scales (gamma) of the group's BatchNorms."""
        return tuple(member for member in self.group.members if self._is_scale(member))

    def _is_scale(self, member: Member) -> bool:
        layer, _, name = member.parameter.rpartition(".")
        scale = self.values.get(member.parameter)
        return (
            name == "weight"
            and f"{layer}.running_var" in self.values
            and scale is not None
            and scale.dim() == 1
        )

    def covers(self, members: Iterable[Member]) -> bool:
        """Whether every channel has indices in one of the members at least."""
        found = np.zeros(self.group.size, np.bool_)
        for member in members:
            found[covered(member)] = True
        return bool(found.all())

    def summed(self, score: RowScore, members: Iterable[Member] | None = None) -> Tensor:
        """Return the sum over members, by default the makers, of `score` of their rows, float64 (channels,).

        Raises:
            InputError: a weight gives scores that are not finite.
        """
        total = torch.zeros(self.group.size, dtype=torch.float64)
        for member in self.makers if members is None else members:
            scores = score(self.rows(member)).to("cpu", torch.float64)
            if not bool(scores.isfinite().all()):
                raise InputError(
                    f"The weight {member.parameter} gives channel scores that are not finite: it holds NaN, "
                    "infinite or overflowing numbers. Load weights of a training run that has not diverged."
                )
            total[covered(member)] += scores
        return total

    def effects(self) -> FloatArray:
        """Return sum(w * g) over all weights that make each channel, for every draw of g: (draws, channels)."""
        assert self.measured is not None
        parts = [
            (m, self.measured.effects(m.parameter, m.axis)[:, m.indices].sum(axis=2)) for m in self.makers
        ]
        total = np.zeros((parts[0][1].shape[0], self.group.size))
        for member, part in parts:
            total[:, covered(member)] += part
        return total


def covered(member: Member) -> slice | npt.NDArray[np.int64]:
    """Return which channels of its group a member has rows for, as an index."""
    return slice(None) if member.channels is None else member.channels


def filter_rows(weight: Tensor, axis: int) -> Tensor:
    """Return `weight` as (size of `axis`, everything else), in logical order whatever the memory format."""
    rows = weight.detach().movedim(axis, 0)
    return rows.flatten(1) if rows.dim() > 1 else rows[:, None]


def widened(weight: Tensor) -> Tensor:
    """Return `weight` in at least float32: sums of half-precision numbers lose digits and overflow."""
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
