"""A failed trial, and the op that it is blamed on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torchthin.graph.operators import VIEWS
from torchthin.graph.opgraph import Op, OpGraph
from torchthin.thinning.search.constraints import Constraints, Proposal
from torchthin.thinning.search.outcome import Failure
from torchthin.thinning.survivors import Survivors

WIDEN_AFTER = 2
"""Failures at one source line after which all calls of that line are treated alike."""


@dataclass(frozen=True)
class Culprit:
    """The op that a failure is blamed on."""

    op: Op
    seen: tuple[tuple[int, int], ...]
    """(value, axis) of every cut axis among its inputs."""
    constraints: Constraints
    """Without what an earlier failure here led to, which did not help; the failure is counted."""


@dataclass(frozen=True)
class Setback:
    """A failed trial with all that a remedy may look at."""

    failure: Failure
    proposal: Proposal

    @property
    def constraints(self) -> Constraints:
        """What the proposal kept to."""
        return self.proposal.constraints

    @property
    def graph(self) -> OpGraph:
        """The record of the model."""
        return self.proposal.traced.graph

    @property
    def survivors(self) -> Survivors:
        """What was kept of every value."""
        return self.proposal.survivors

    @cached_property
    def culprit(self) -> Culprit | None:
        """The op at or just after the failure that saw cut axes, else the last before it, else the next after it.

        A view that Python code asks for is recorded as a copy and a view: where code raised, the view is to blame. An op that
        gave an axis a size of its own is the culprit, whatever failed after it.
        """
        if self.failure.fixed:
            op = self.graph.by_index[self.failure.fixed[0][0]]
            seen = self.seen(op) or [place[1:] for place in self.failure.fixed]
            return self._blamed(op, seen)
        ops = self.graph.ops
        position = next((i for i, op in enumerate(ops) if op.index >= self.failure.op), len(ops) - 1)
        near = ops[position : position + 3]
        views = [op for op in near[:2] if op.name in VIEWS] if self.failure.raised else []
        for op in (*views, *near, *reversed(ops[:position]), *ops[position:]):
            seen = self.seen(op)
            if seen:
                return self._blamed(op, seen)
        return None

    def seen(self, op: Op) -> list[tuple[int, int]]:
        """Return (value, axis) of every cut axis among the inputs of an op."""
        return [(value, axis) for value in op.reads for axis in self.survivors.cut_axes(value)]

    def _blamed(self, op: Op, seen: list[tuple[int, int]]) -> Culprit:
        constraints = self.constraints.without_attributes(op.index, self.graph) or self.constraints
        constraints = constraints.without_couples(self.failure.op).counted(self.kind(op))
        return Culprit(op, tuple(dict.fromkeys(seen)), constraints)

    def kind(self, op: Op) -> tuple[object, ...]:
        """Ops of one kind are calls of one line of code on tensors of the same shapes."""
        shapes = tuple(self.graph.values[value].shape for value in values_of(op))
        return (op.name, op.source.file, op.source.line, shapes)

    def of_kind(self, op: Op) -> list[Op]:
        """Return all ops of one kind."""
        kind = self.kind(op)
        return [other for other in self.graph.ops if other.name == op.name and self.kind(other) == kind]

    def alike(self, op: Op, constraints: Constraints) -> list[Op]:
        """Return the op alone at first; all of its kind once they have failed often."""
        often = constraints.failures.get(self.kind(op), 0) > WIDEN_AFTER
        return self.of_kind(op) if often else [op]


def values_of(op: Op) -> list[int]:
    """Return the values that an op takes, then those that it makes."""
    return [*op.reads, *op.results]
