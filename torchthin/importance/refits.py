"""Consumers of removed channels, refitted one group at a time: what is needed to run the dense model as if it were thinned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.dependency.groups import Group
from torchthin.importance.moments import Moments
from torchthin.importance.removal import RIDGE
from torchthin.importance.statistics import MeasuredGroups

BoolArray = npt.NDArray[np.bool_]
KEPT = 2**27
"""Weights that are kept at most, all choices together."""


@dataclass(frozen=True)
class Change:
    """What an operator that sums over channels does without some of them."""

    removed: Tensor
    """(indices of the axis summed over,) bool: what goes in is zero there."""
    weight: Tensor | None = None
    """(outputs, columns): what is added to the weight, float32; None: the operator cannot be refitted."""
    shift: Tensor | None = None
    """(outputs,): what is added to the outputs, so that their mean stays."""

    def __add__(self, other: Change) -> Change:
        """Return both together: of channels of two groups that one operator sums over."""
        removed = self.removed | other.removed
        if self.weight is None or other.weight is None or self.shift is None or other.shift is None:
            return Change(removed)
        return Change(removed, self.weight + other.weight, self.shift + other.shift)


@dataclass
class Refits:
    """The changes of all consumers for any choice of channels; those of a group are worked out once for each, and kept."""

    _known: dict[tuple[bytes, bytes], dict[int, Change]] = field(default_factory=dict)
    _size: int = 0

    def together(
        self, groups: MeasuredGroups, chosen: Iterable[tuple[Group, bytes, BoolArray]]
    ) -> dict[int, Change]:
        """Return the change of every operator, by its number.

        chosen: groups, the signatures of `MeasuredGroups`, and what is kept of each (True).
        """
        found: dict[int, Change] = {}
        for group, signature, keep in chosen:
            for number, change in self._of(groups, group, signature, keep).items():
                found[number] = found[number] + change if number in found else change
        return found

    def _of(
        self, groups: MeasuredGroups, group: Group, signature: bytes, keep: BoolArray
    ) -> dict[int, Change]:
        key = signature, keep.tobytes()
        if key not in self._known:
            self._known[key] = {} if keep.all() else _changes(groups, group, keep)
            self._size += _size(self._known[key])
            while self._size > KEPT and len(self._known) > 1:
                self._size -= _size(self._known.pop(next(iter(self._known))))
        return self._known[key]


def _changes(groups: MeasuredGroups, group: Group, keep: BoolArray) -> dict[int, Change]:
    taken = groups.measure.moments(groups.labels)
    found = {}
    for number, channel in groups.consumed(group):
        removed = torch.from_numpy((channel >= 0) & ~keep[channel])
        if bool(removed.any()):
            moments = taken.get(number)
            found[number] = Change(removed) if moments is None else _refitted(moments, removed)
    return found


def _refitted(moments: Moments, removed: Tensor) -> Change:
    """Return the least squares of the outputs on the inputs that are kept, drawn to the present weights."""
    loaded, weight = moments.covariance(), moments.weight
    loaded.diagonal().add_(RIDGE * loaded.diagonal().mean())
    gone = removed.repeat_interleave(moments.taps).to(loaded.device)
    change = torch.where(gone, -weight, 0.0)
    rows = loaded[~gone]
    factor, failed = torch.linalg.cholesky_ex(rows[:, ~gone])
    if not bool(failed):
        change[:, ~gone] = torch.cholesky_solve(rows[:, gone] @ weight[:, gone].mT, factor).mT
    return Change(removed, change.float(), -(change @ moments.mean).float())


def _size(changes: Mapping[int, Change]) -> int:
    return sum(0 if change.weight is None else change.weight.numel() for change in changes.values())
