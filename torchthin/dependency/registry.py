"""The table of rules: one ATen operator, one small function from input labels to output labels.

A rule gets a `Call` and returns the axes of the op's results. On the way it ties, freezes and balances labels. To add one:

    @register_op("aten.mm")
    def mm(call: Call) -> list[Axes]:
        a, b = call.axes("self"), call.axes("mat2")
        call.tie(a[1], b[0])
        return [(a[0], b[1])]

An operator without a rule freezes every label that reaches it, and is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torchthin.dependency.dead_rules import DeadRule, live
from torchthin.dependency.labels import Axes, Axis, FlattenedAxis, LabelSpace, RankedAxis, Reason, Vector
from torchthin.errors import ConfigError
from torchthin.graph.opgraph import Op, Ref, Value

Rule = Callable[["Call"], Sequence[Axes]]


@dataclass(frozen=True)
class Entry:
    """A registered rule."""

    rule: Rule
    accepts_flattened: bool
    """The rule handles a `FlattenedAxis`; for other rules all but the first of its axes are frozen."""
    accepts_ranked: bool
    """The rule handles a `RankedAxis`; for other rules it is frozen."""
    dead: DeadRule = live
    """What the result holds at removed channels; see `torchthin/dependency/dead_rules.py`."""
    sums: bool = False
    """Channels that are removed from the axes over which it reduces leave the result as it is where they hold zeros."""


RULES: dict[str, Entry] = {}
"""By the name of the operator."""


def register_op(
    *operators: str,
    accepts_flattened: bool = False,
    accepts_ranked: bool = False,
    dead: DeadRule = live,
    sums: bool = False,
) -> Callable[[Rule], Rule]:
    """Return a decorator that registers a rule for operators.

    Args:
        operators: names without overload, such as ``aten.mm`` or ``house.gate``.
        accepts_flattened, accepts_ranked, sums: see `Entry`.
        dead: what the result holds at removed channels (``pointwise``, ``product``, ``moved``, ... of
            `torchthin.dependency.dead_rules`). Left out: it may depend on the input, whatever goes in, so that channels are kept
            which pass through the operator to where they are summed.

    Raises:
        ConfigError: an operator has a rule already.
    """

    def register(rule: Rule) -> Rule:
        for operator in operators:
            if operator in RULES:
                taken = RULES[operator].rule
                raise ConfigError(
                    f"The operator {operator} has a rule already: {taken.__module__}.{taken.__qualname__}. "
                    "An operator has one rule; register yours for another operator."
                )
            RULES[operator] = Entry(rule, accepts_flattened, accepts_ranked, dead, sums)
        return rule

    return register


def rule_of(operator: str) -> Entry | None:
    """Return the rule for an operator, or None."""
    return RULES.get(operator)


def operators() -> list[str]:
    """Return the names of all operators that have a rule."""
    return sorted(RULES)


@dataclass(frozen=True)
class SplitChoice:
    """An op that may divide an axis in several legal ways; which one works is found by trying."""

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
    """One op while it is labelled: its arguments with their labels, and the `LabelSpace`."""

    def __init__(
        self,
        op: Op,
        values: Sequence[Value],
        labels: dict[int, Axes],
        space: LabelSpace,
        choice: int,
        consumed: Container[int],
        first_unit: int | None = None,
    ) -> None:
        self.op = op
        self.values = values
        self.space = space
        self._labels = labels
        self._choice = choice
        self._consumed = consumed
        self.first_unit = first_unit
        self.split_choice: SplitChoice | None = None
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

    def of(self, value: int) -> Axes:
        """Return the labels of a value, such as one of a list argument."""
        return self._labels[value]

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """Return the shape of a result."""
        ref = self.op.outputs[index]
        return () if ref is None else self.values[ref.value].shape

    def unlabelled(self, index: int = 0) -> Axes:
        """Return the axes of a result on which nothing can be removed."""
        return (None,) * len(self.out_shape(index))

    def dim(self, default: int = 0, name: str = "dim") -> int:
        """Return the dimension that an argument names, counted from the front of the argument ``self``."""
        return positive(int(self.arg(name, default)), len(self.axes("self")))

    def used(self, index: int) -> bool:
        """Whether another op, or the caller of the model, takes a result."""
        ref = self.op.outputs[index] if index < len(self.op.outputs) else None
        return ref is not None and ref.value in self._consumed

    def tie(self, a: Axis, b: Axis) -> None:
        """Tie two axes index by index; an axis that meets a fixed one is frozen."""
        reason = Reason("must match an axis that cannot change", self.op)
        if isinstance(a, FlattenedAxis) or isinstance(b, FlattenedAxis) or a is None or b is None:
            self.space.freeze(a, reason)
            self.space.freeze(b, reason)
        else:
            self.space.tie(a, b, reason)

    def freeze(self, axis: Axis, text: str) -> None:
        """Freeze an axis with this op as the reason."""
        self.space.freeze(axis, Reason(text, self.op))

    def freeze_all(self, axes: Iterable[Axis], text: str) -> None:
        """Freeze several axes."""
        for axis in axes:
            self.freeze(axis, text)

    def resolve(self, axis: FlattenedAxis) -> None:
        """Leave one way in which a flattened axis can lose something: along the first labelled axis of each segment."""
        for dims in axis.segments:
            labelled = [vector for _, vector in dims if vector is not None]
            for vector in labelled[1:]:
                self.freeze(vector, "flattened together with another axis")

    def without_ranks(self, axis: Axis) -> Axis:
        """Freeze an axis whose indices are ranks; leave any other as it is."""
        if not isinstance(axis, RankedAxis):
            return axis
        self.freeze(axis, "what is picked by its rank depends on how many there are")
        return None

    def choose(self, labels: Vector, *candidates: str) -> str:
        """Return how `labels` are divided; ``frozen`` is always the last candidate."""
        everything = (*candidates, "frozen")
        chosen = min(self._choice, len(everything) - 1)
        self.split_choice = SplitChoice(self.op, everything, chosen, labels)
        if everything[chosen] == "frozen":
            self.freeze(labels, "no way to divide it worked")
        return everything[chosen]


def positive(dim: int, rank: int) -> int:
    """Return a dimension number counted from the front."""
    return dim % max(rank, 1)
