"""What one labelling collects: which labels exist, which are tied, frozen and why, or are removed in equal numbers.

A *label* is an integer for one index of one tensor axis. Two labels are *tied* when their indices are removed together or not at
all. Everything is collected as lists of arrays; nothing here is done label by label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from torchthin.graph.opgraph import Op

Vector = npt.NDArray[np.int64]
"""The labels of one axis, one per index; 0 marks an index that is frozen from the start (padding)."""

Bools = npt.NDArray[np.bool_]

FROZEN = 0


Dims = tuple[tuple[int, "Vector | None"], ...]
"""Size and labels of axes that were flattened row by row."""


@dataclass(frozen=True, eq=False)
class FlattenedAxis:
    """An axis into which several labelled axes were flattened: an index is removed when any of its labels is."""

    segments: tuple[Dims, ...]
    """Joined one after the other."""

    @property
    def parts(self) -> tuple[Vector, ...]:
        """All labels, by the axes that they come from."""
        return tuple(vector for dims in self.segments for _, vector in dims if vector is not None)

    def spread(self, measure: Callable[[Vector], Bools]) -> Bools:
        """Return per index whether `measure` holds for all of its labels."""
        return np.concatenate([_spread(dims, measure) for dims in self.segments])

    def along_first(self) -> Vector:
        """Return the labels of the first labelled axis of each segment, per index."""
        return np.concatenate([_along_first(dims) for dims in self.segments])


@dataclass(frozen=True, eq=False)
class RankedAxis(FlattenedAxis):
    """An axis after sorting: an index is a rank. Only the first and the last mean the same however many there are."""


def _spread(dims: Dims, measure: Callable[[Vector], Bools]) -> Bools:
    holds = np.ones(1, np.bool_)
    for size, vector in dims:
        one = np.ones(size, np.bool_) if vector is None else measure(vector)
        holds = (holds[:, None] & one[None, :]).reshape(-1)
    return holds


def _along_first(dims: Dims) -> Vector:
    sizes = [size for size, _ in dims]
    position = next((d for d, (_, vector) in enumerate(dims) if vector is not None), None)
    if position is None:
        return np.full(int(np.prod(sizes)), FROZEN, np.int64)
    vector = dims[position][1]
    assert vector is not None
    inner = int(np.prod(sizes[position + 1 :]))
    return np.tile(vector.repeat(inner), int(np.prod(sizes[:position])))


Axis = Vector | FlattenedAxis | None
"""Labels of one axis. None: nothing on it can be removed (a batch or spatial axis, or size 1)."""

Axes = tuple[Axis, ...]


def with_axis(axes: Axes, dim: int, axis: Axis) -> Axes:
    """Return axes with another one in the place of `dim`."""
    return (*axes[:dim], axis, *axes[dim + 1 :])


@dataclass(frozen=True)
class Reason:
    """Why labels are frozen."""

    text: str
    op: Op | None = None

    def __str__(self) -> str:
        return self.text if self.op is None else f"{self.text}: {self.op.name} in {self.op.source}"


def connected(a: Vector, b: Vector, size: int) -> tuple[int, Vector]:
    """Return how many components the edges a[i] - b[i] leave of `size` nodes, and the component of each node."""
    matrix = coo_matrix((np.ones(a.size, np.int8), (a, b)), shape=(size, size))
    count, of_node = connected_components(matrix, directed=False)
    return int(count), np.asarray(of_node, dtype=np.int64)


@dataclass
class LabelSpace:
    """Labels, ties, freezes and balances as they are collected."""

    count: int = 1
    ties: list[tuple[Vector, Vector]] = field(default_factory=list)
    freezes: list[tuple[Vector, Reason]] = field(default_factory=list)
    balances: list[Vector] = field(default_factory=list)
    """Each of shape (blocks, n): equal numbers are removed from every row."""
    expandable: set[int] = field(default_factory=set)
    """Labels of axes whose indices are all alike (repeated or filled in forward)."""

    def fresh(self, size: int, expandable: bool = False) -> Vector:
        """Return `size` labels that were never used; `expandable`: the indices of their axis are all alike."""
        start, self.count = self.count, self.count + size
        if expandable:
            self.expandable.update(range(start, start + size))
        return np.arange(start, start + size, dtype=np.int64)

    def is_expandable(self, axis: Axis) -> bool:
        """Whether an axis was made in forward and all its indices are alike."""
        return isinstance(axis, np.ndarray) and int(axis[0]) in self.expandable

    def tie(self, a: Vector, b: Vector, reason: Reason) -> None:
        """Tie `a` and `b` index by index (numpy broadcasting); what meets a frozen index is frozen."""
        if a is b:
            return
        if a.ndim != 1 or a.shape != b.shape:
            a, b = (np.ascontiguousarray(x).reshape(-1) for x in np.broadcast_arrays(a, b))
        if not (a.all() and b.all()):
            stuck = (a == FROZEN) | (b == FROZEN)
            self.freeze(np.concatenate([a[stuck], b[stuck]]), reason)
            a, b = a[~stuck], b[~stuck]
        self.ties.append((a, b))

    def freeze(self, axis: Axis, reason: Reason) -> None:
        """Freeze every label of an axis."""
        if axis is None:
            return
        for vector in axis.parts if isinstance(axis, FlattenedAxis) else (axis,):
            labels = vector[vector != FROZEN]
            if labels.size:
                self.freezes.append((labels, reason))

    def balance(self, blocks: Vector) -> None:
        """Demand that equal numbers are removed from every row of `blocks`, shape (blocks, n)."""
        if blocks.shape[0] > 1:
            self.balances.append(blocks)
