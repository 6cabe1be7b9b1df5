"""How long layers take at any widths: what a latency budget asks, and who answers it.

The allocator knows time as it knows parameters, by a sum over ops. Which op is how long at which widths is measured elsewhere
(`torchthin.evaluation.latency`); here is what is asked: an op, its shapes, and which of their axes change together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

from torchthin.graph.operators import may_share, written_arguments
from torchthin.graph.opgraph import BRANCH, Op, OpGraph

ValueAxis = tuple[int, int]
"""Value number and axis."""
_PROBES = 8
"""Random cuts by which axes that change together are found: two that keep the same share in each are one."""

Duration = Callable[[tuple[int, ...]], float]
"""Sizes of a layer's variables -> nanoseconds."""


@dataclass(frozen=True)
class TimedLayer:
    """An op whose time depends on widths."""

    op: Op
    graph: OpGraph
    variables: tuple[tuple[ValueAxis, ...], ...]
    """Axes of what it reads that change together, each the shortest first, of which the others are multiples."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Full size of every variable."""
        return tuple(self.graph.values[axes[0][0]].shape[axes[0][1]] for axes in self.variables)

    def shapes(self, sizes: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Return the shapes of what the op reads, by value number, where its variables have these sizes."""
        found = {value: list(self.graph.values[value].shape) for value in self.op.reads}
        for axes, full, size in zip(self.variables, self.sizes, sizes, strict=True):
            for value, axis in axes:
                found[value][axis] = round(found[value][axis] / full * size)
        return {value: tuple(shape) for value, shape in found.items()}


class LayerTimes(Protocol):
    """Measured times."""

    @property
    def whole(self) -> float:
        """Nanoseconds of one forward pass of the full model."""

    @property
    def gain(self) -> float:
        """By which what a cut saves is multiplied: 1, or what the model that was thinned before really saved."""

    @property
    def kernel(self) -> int:
        """Channels that kernels work on together."""

    def durations(self, layers: Sequence[TimedLayer]) -> list[Duration | None]:
        """Return how long each layer takes, None where it cannot be run alone."""


def axes_read(graph: OpGraph) -> dict[int, list[ValueAxis]]:
    """Return for every op that takes time (by its place among the ops) all axes of what it reads; not of views."""
    found: dict[int, list[ValueAxis]] = {}
    for place, op in enumerate(graph.ops):
        moves = may_share(op.target) and not written_arguments(op.target)
        if abs(op.index) >= BRANCH or moves:
            continue
        values = [(number, graph.values[number]) for number in dict.fromkeys(op.reads)]
        if values and all(value.dtype.is_floating_point for _, value in values):
            found[place] = [(number, axis) for number, value in values for axis in range(len(value.shape))]
    return found


def variables_of(
    axes: Sequence[ValueAxis], full: Mapping[ValueAxis, int], cut: Mapping[ValueAxis, Sequence[int]]
) -> tuple[tuple[ValueAxis, ...], ...]:
    """Return the axes whose size changes, those together of which the same share is kept in every cut.

    full: size of each; cut: its sizes in several random cuts.
    """
    alike: dict[tuple[Fraction, ...], list[ValueAxis]] = {}
    for axis in sorted(axes, key=lambda axis: full[axis]):
        if any(size != full[axis] for size in cut[axis]):
            alike.setdefault(tuple(Fraction(size, full[axis]) for size in cut[axis]), []).append(axis)
    return tuple(map(tuple, alike.values()))


def probes(channels: Sequence[npt.NDArray[np.int64]], components: int) -> list[npt.NDArray[np.bool_]]:
    """Return random cuts: which components are removed, of every group at most all but one channel."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(_PROBES):
        removed = np.zeros(components, np.bool_)
        for group in channels:
            removed[group] = generator.random(group.size) < generator.random()
            removed[group[:1]] = False
        found.append(removed)
    return found
