"""Which indices of every recorded value are kept, worked out from the labels and what was selected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.dependency.components import Components
from torchthin.dependency.labels import FROZEN, Axes, FlattenedAxis, Vector
from torchthin.dependency.propagate import Labels

Place = tuple[int, int, int]
"""Op, value and axis."""
ROUNDING = 1e-5
"""Share of the largest number by which numbers that should be equal may differ."""
_FIRST = 4
"""Indices of every other axis that are read first."""
BoolArray = npt.NDArray[np.bool_]


@dataclass
class Survivors:
    """Which indices of every labelled value are kept."""

    labels: Labels
    components: Components
    removed: BoolArray
    """Shape (components,)."""
    _cache: dict[tuple[int, int], BoolArray | None] = field(default_factory=dict)

    def along(self, value: int, axis: int) -> BoolArray | None:
        """Return which indices of an axis are kept; None when all are."""
        key = (value, axis)
        if key not in self._cache:
            labels = self.labels.values[value][axis] if value in self.labels.values else None
            kept: BoolArray | None = None
            if labels is not None:
                kept = labels.spread(self._kept) if isinstance(labels, FlattenedAxis) else self._kept(labels)
                kept = None if kept.all() else kept
            self._cache[key] = kept
        return self._cache[key]

    def _kept(self, vector: Vector) -> BoolArray:
        return np.asarray(~self.removed[self.components.of_label[vector]] | (vector == FROZEN))

    def removed_along(self, value: int, axis: int) -> npt.NDArray[np.int64]:
        """Return the removed components of a labelled axis."""
        labels = self.labels.values[value][axis]
        assert labels is not None
        vectors = labels.parts if isinstance(labels, FlattenedAxis) else (labels,)
        found = self.components.of_label[np.concatenate(vectors)]
        return found[self.removed[found]]

    def cut_axes(self, value: int) -> dict[int, BoolArray]:
        """Return the axes of a value that lose something, with what is kept of them."""
        axes: Axes = self.labels.values.get(value, ())
        found = {axis: self.along(value, axis) for axis in range(len(axes))}
        return {axis: kept for axis, kept in found.items() if kept is not None}

    def cut_any(self, values: Iterable[int]) -> bool:
        """Whether one of some values loses something."""
        return any(self.cut_axes(value) for value in values)

    def select(self, value: int, tensor: Tensor) -> Tensor:
        """Return what is kept of a full-size tensor."""
        for axis, kept in self.cut_axes(value).items():
            tensor = tensor.index_select(axis, indices(kept, tensor))
        return tensor


def rows(tensor: Tensor, axis: int, hit: BoolArray) -> Tensor:
    """Return what lies at some indices of an axis, shape (indices, the rest)."""
    count = int(hit.sum())
    found = tensor.index_select(axis, indices(hit, tensor)).movedim(axis, 0)
    return found.reshape(count, found.numel() // max(count, 1))


def nonzero_rows(tensor: Tensor, axis: int, hit: BoolArray) -> BoolArray:
    """Return which of some indices of an axis have a number that is not zero.

    Most have one among their first numbers; all are read only where that tells too little.
    """
    others = [other for other in range(tensor.dim()) if other != axis % tensor.dim()]
    start = tensor
    for other in others:
        start = start.narrow(other, 0, min(_FIRST, start.shape[other]))
    found = _nonzero(start, others)[hit]
    return found if found.all() or start.numel() == tensor.numel() else _nonzero(tensor, others)[hit]


def _nonzero(tensor: Tensor, others: list[int]) -> BoolArray:
    """Return at which indices of the axis that is none of the `others` a number is not zero."""
    found: BoolArray = (tensor.any(others) if others else tensor != 0).cpu().numpy()
    return found


def indices(kept: BoolArray, like: Tensor) -> Tensor:
    """Return kept positions as an index tensor on the device of `like`."""
    return torch.from_numpy(np.flatnonzero(kept)).to(like.device)
