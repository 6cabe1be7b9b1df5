"""The table of rules: one ATen operator, one small function from input labels to output labels.

A rule gets a `Call` and returns the axes of the op's results; on the way it ties, freezes and balances. To add one:

    @rule("aten.mm")
    def mm(call: Call) -> list[Axes]:
        a, b = call.axes("self"), call.axes("mat2")
        call.tie(a[1], b[0])
        return [(a[0], b[1])]

Operators without a rule freeze every label that goes in, and are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from torchthin.dependency.labels import Axes, Axis, LabelSpace, Merged, Reason, Sorted, Vector
from torchthin.graph.opgraph import Op, Ref, Value

Rule = Callable[["Call"], Sequence[Axes]]


@dataclass(frozen=True)
class Entry:
    """A registered rule."""

    rule: Rule
    accepts_merged: bool
    """The rule knows what to do with `Merged` axes; for others all but the first of their axes are frozen."""
    accepts_sorted: bool
    """The rule knows what to do with `Sorted` axes; for others they are frozen."""


_RULES: dict[str, Entry] = {}


def rule(
    *operators: str, accepts_merged: bool = False, accepts_sorted: bool = False
) -> Callable[[Rule], Rule]:
    """Register a rule for operators, named without overload (``aten.mm``).

    Raises:
        RuntimeError: when an operator has a rule already.
    """

    def register(function: Rule) -> Rule:
        for operator in operators:
            if operator in _RULES:
                raise RuntimeError(f"The operator {operator} has a rule already: {_RULES[operator].rule}.")
            _RULES[operator] = Entry(function, accepts_merged, accepts_sorted)
        return function

    return register


def find(operator: str) -> Entry | None:
    """Return the rule for an operator, or None."""
    return _RULES.get(operator)


def operators() -> list[str]:
    """Return the names of all operators that have a rule."""
    return sorted(_RULES)


@dataclass(frozen=True)
class Site:
    """An op whose labels can be carried on in more than one legal way; which one works is found by trying."""

    op: Op
    candidates: tuple[str, ...]
    chosen: int
    labels: Vector
    """The labels that the choice concerns."""


@dataclass(frozen=True)
class Contraction:
    """An op that sums over channels: where dead channels add a constant."""

    data: int
    """Value whose channels are summed over."""
    data_axis: int
    weight: int
    bias: str | None
    """Name of the bias argument in the op's schema; None: the op has none."""
    out_axis: int
    """Axis of the result along which the constant varies."""


class Call:
    """One op while it is being labelled: its arguments with their labels, and the ledger."""

    def __init__(
        self,
        op: Op,
        values: Sequence[Value],
        labels: dict[int, Axes],
        space: LabelSpace,
        choice: int,
        consumed: Container[int],
    ) -> None:
        self.op = op
        self.values = values
        self.space = space
        self._labels = labels
        self._choice = choice
        self._consumed = consumed
        self.site: Site | None = None
        self.statistics = False
        self.contraction: Contraction | None = None

    def has(self, name: str) -> bool:
        """Whether the argument was given and is a tensor."""
        return isinstance(self.op.arguments.get(name), Ref)

    def arg(self, name: str, default: Any = None) -> Any:
        """Return an argument that is no tensor; `default` when left out."""
        return self.op.arguments.get(name, default)

    def value(self, name: str) -> int:
        """Return the value number of a tensor argument."""
        ref = self.op.arguments[name]
        assert isinstance(ref, Ref)
        return ref.value

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor argument."""
        return self.values[self.value(name)].shape

    def axes(self, name: str) -> Axes:
        """Return the labels of a tensor argument."""
        return self._labels[self.value(name)]

    def of(self, ref: Ref) -> Axes:
        """Return the labels of a tensor from a list argument."""
        return self._labels[ref.value]

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """Return the shape of a result."""
        ref = self.op.outputs[index]
        return () if ref is None else self.values[ref.value].shape

    def used(self, index: int) -> bool:
        """Whether another op, or the caller of the model, takes a result."""
        ref = self.op.outputs[index] if index < len(self.op.outputs) else None
        return ref is not None and ref.value in self._consumed

    def tie(self, a: Axis, b: Axis) -> None:
        """Tie two axes index by index; an axis that meets a fixed one is frozen."""
        reason = Reason("must match an axis that cannot change", self.op)
        if isinstance(a, Merged) or isinstance(b, Merged) or a is None or b is None:
            self.space.freeze(a, reason)
            self.space.freeze(b, reason)
        else:
            self.space.tie(a, b, reason)

    def freeze(self, axis: Axis, text: str) -> None:
        """Freeze an axis with this op as the reason."""
        self.space.freeze(axis, Reason(text, self.op))

    def resolve(self, axis: Merged) -> None:
        """Leave one way in which a flattened axis can lose something: along the first labelled axis of each segment."""
        for dims in axis.segments:
            labelled = [vector for _, vector in dims if vector is not None]
            for vector in labelled[1:]:
                self.freeze(vector, "flattened together with another axis")

    def unsorted(self, axis: Axis) -> Axis:
        """Freeze an axis whose indices are ranks; leave any other as it is."""
        if not isinstance(axis, Sorted):
            return axis
        self.freeze(axis, "what is picked by its rank depends on how many there are")
        return None

    def choose(self, labels: Vector, *candidates: str) -> str:
        """Return the way to go on for `labels`; ``frozen`` is always the last candidate."""
        everything = (*candidates, "frozen")
        chosen = min(self._choice, len(everything) - 1)
        self.site = Site(self.op, everything, chosen, labels)
        if everything[chosen] == "frozen":
            self.freeze(labels, "no way to divide it worked")
        return everything[chosen]


def positive(dim: int, rank: int) -> int:
    """Return a dimension number counted from the front."""
    return dim % max(rank, 1)
