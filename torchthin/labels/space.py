"""The ledger of one labelling: which labels exist, which are tied, frozen and why, or must go in equal numbers.

A *label* is an integer that stands for one index of one tensor axis. Two labels are *tied* when their indices stand or
fall together. All ledgers are lists of arrays; nothing here is done label by label.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from torchthin.trace.opgraph import Op

Vector = npt.NDArray[np.int64]
"""The labels of one axis, one per index; 0 marks an index that is frozen from the start (padding)."""

FROZEN = 0


@dataclass(frozen=True)
class Merged:
    """An axis into which several labelled axes were flattened; only a full reduction may use it."""

    parts: tuple[Vector, ...]


Axis = Vector | Merged | None
"""Labels of one axis. None: nothing on it can go (a batch or spatial axis, or size 1)."""

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class Reason:
    """Why labels are frozen."""

    text: str
    op: Op | None = None

    def __str__(self) -> str:
        return self.text if self.op is None else f"{self.text}: {self.op.name} in {self.op.source}"


@dataclass
class LabelSpace:
    """Labels, ties, freezes and balances as they are collected."""

    count: int = 1
    ties: list[tuple[Vector, Vector]] = field(default_factory=list)
    freezes: list[tuple[Vector, Reason]] = field(default_factory=list)
    balances: list[Vector] = field(default_factory=list)
    """Each of shape (blocks, n): equal numbers must go from every row."""
    soft: set[int] = field(default_factory=set)
    """Labels of axes whose indices are all alike (repeated or filled in forward)."""

    def fresh(self, size: int, soft: bool = False) -> Vector:
        """Return `size` labels that were never used; `soft`: the indices of their axis are all alike."""
        start, self.count = self.count, self.count + size
        if soft:
            self.soft.update(range(start, start + size))
        return np.arange(start, start + size, dtype=np.int64)

    def is_soft(self, axis: Axis) -> bool:
        """Whether an axis was made in forward and all its indices are alike."""
        return isinstance(axis, np.ndarray) and int(axis[0]) in self.soft

    def tie(self, a: Vector, b: Vector, reason: Reason) -> None:
        """Tie `a` and `b` index by index (numpy broadcasting); what meets a frozen index is frozen."""
        if a is b:
            return
        a, b = (np.ascontiguousarray(x).reshape(-1) for x in np.broadcast_arrays(a, b))
        stuck = (a == FROZEN) | (b == FROZEN)
        if stuck.any():
            self.freeze(np.concatenate([a[stuck], b[stuck]]), reason)
            a, b = a[~stuck], b[~stuck]
        self.ties.append((a, b))

    def freeze(self, axis: Axis, reason: Reason) -> None:
        """Freeze every label of an axis."""
        if axis is None:
            return
        for vector in axis.parts if isinstance(axis, Merged) else (axis,):
            labels = np.unique(vector)
            labels = labels[labels != FROZEN]
            if labels.size:
                self.freezes.append((labels, reason))

    def balance(self, blocks: Vector) -> None:
        """Demand that equal numbers go from every row of `blocks`, shape (blocks, n)."""
        if blocks.shape[0] > 1:
            self.balances.append(blocks)
