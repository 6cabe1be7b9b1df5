"""Carries labels through a recorded graph, op by op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from torchthin.dependency import rules as rules  # registers every register_op
from torchthin.dependency.labels import Axes, FlattenedAxis, LabelSpace, Reason, connected
from torchthin.dependency.registry import Call, Contraction, SplitChoice, rule_of
from torchthin.dependency.rules.elementwise import elementwise
from torchthin.graph.operators import MOVES, operator_name
from torchthin.graph.opgraph import Op, OpGraph


@dataclass(frozen=True)
class FrozenAxis:
    """An axis to freeze at an op, because a trial without it failed there."""

    op: int
    value: int
    axis: int
    text: str
    places: tuple[int, ...] | None = None
    """Indices of the axis; None: all."""


@dataclass(frozen=True)
class CoupledAxes:
    """Two axes that must lose equal numbers, because Python code uses the size of one for the other."""

    op: int
    value: int
    axis: int
    other: int
    other_axis: int
    """Its size is a multiple of the first axis's; each part of it is coupled."""


@dataclass(frozen=True)
class Labels:
    """What a labelling found."""

    graph: OpGraph
    space: LabelSpace
    values: Mapping[int, Axes]
    state: Mapping[str, Axes]
    split_choices: tuple[SplitChoice, ...]
    statistics: frozenset[int]
    """Ops whose result over the remaining channels differs from their result over all (norms, means over channels)."""
    contractions: Mapping[int, Contraction]
    unknown: tuple[Op, ...]
    """Ops without a rule that met labels."""
    from_input: frozenset[int]
    """Values that depend on the model's inputs."""


def propagate(
    graph: OpGraph,
    choices: Mapping[int, int] | None = None,
    frozen: Iterable[FrozenAxis] = (),
    coupled: Iterable[CoupledAxes] = (),
    units: Mapping[int, int] | None = None,
) -> Labels:
    """Label every value of `graph` (already `live`).

    Args:
        graph: the recorded ops.
        choices: per op index, which candidate to take where an op has several (default the first).
        frozen: axes to freeze at an op.
        coupled: axes that must lose equal numbers.
        units: per op index, the axis of its result that comes first among the candidates where it divides an axis.
    """
    run = _Propagation(graph, choices or {}, frozen, coupled, units or {})
    for op in graph.ops:
        run.visit(op)
    for number in graph.outputs:
        for axis in run.axes(number):
            run.space.freeze(axis, Reason("part of the model's output"))
    for number in run.from_input.intersection(graph.handed):
        for axis in run.axes(number):
            run.space.freeze(axis, Reason("code takes its numbers out of the tensor (tolist, numpy)"))
    state = {name: run.values[number] for name, number in graph.state.items()}
    _tie_recurrent(graph, run.space, state)
    if graph.idle:
        _freeze_idle(graph, run.space, state)
    _freeze_left_out(graph, run, state)
    return Labels(
        graph,
        run.space,
        run.values,
        state,
        tuple(run.split_choices),
        frozenset(run.statistics),
        run.contractions,
        tuple(run.unknown),
        frozenset(run.from_input),
    )


def _tie_recurrent(graph: OpGraph, space: LabelSpace, state: Mapping[str, Axes]) -> None:
    """Tie what makes a hidden state to what reads it a step later: an example of one step does not show that."""
    reason = Reason("read as a hidden state by the next step")
    for item in graph.recurrent:
        rows, read = state.get(item.weight, (None, None))
        made = rows.reshape(item.gates, -1) if isinstance(rows, np.ndarray) else None
        projection = state.get(item.projection or "")
        if projection is not None and made is not None:
            projected, cells = projection
            pairs = [(made, cells), (projected, read)]
        else:
            pairs = [(made, read)]
        for a, b in pairs:
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                space.tie(a, b, reason)


def _freeze_idle(graph: OpGraph, space: LabelSpace, state: Mapping[str, Axes]) -> None:
    """Freeze what reaches no output and is tied to nothing that does: no comparison would see it."""
    start = np.zeros(1, np.int64)
    a, b = (np.concatenate([start, *(pair[side] for pair in space.ties)]) for side in (0, 1))
    of_label = connected(a, b, space.count)[1]
    vectors = {
        name: np.concatenate([start[:0], *(v for v in axes if isinstance(v, np.ndarray))])
        for name, axes in state.items()
    }
    needed = [of_label[vector] for name, vector in vectors.items() if name not in graph.idle]
    for name in sorted(graph.idle):
        alone = ~np.isin(of_label[vectors[name]], np.concatenate([start[:0], *needed]))
        space.freeze(vectors[name][alone], Reason("computed, but part of no output"))


_PARTS = frozenset({"aten.slice", "aten.select", "aten.narrow"})


def _freeze_left_out(graph: OpGraph, run: _Propagation, state: Mapping[str, Axes]) -> None:
    """Freeze entries of a parameter that the run left out where it read a part: a longer input may read them."""
    weights = run.values.keys() - run.from_input
    if not any(op.name in _PARTS and op.value("self") in weights for op in graph.ops):
        return
    read = np.zeros(run.space.count, np.bool_)
    for value in {value for op in graph.ops if op.name not in MOVES for value in op.reads} & weights:
        for axis in run.values[value]:
            if axis is not None:
                read[np.concatenate(axis.parts if isinstance(axis, FlattenedAxis) else (axis,))] = True
    for axis in (axis for axes in state.values() for axis in axes if isinstance(axis, np.ndarray)):
        left = axis[~read[axis]]
        if left.size < axis.size:
            run.space.freeze(left, Reason("the example inputs read no more of it, others may"))


class _Propagation:
    """The labels of all values so far, and what the rules have noted."""

    def __init__(
        self,
        graph: OpGraph,
        choices: Mapping[int, int],
        frozen: Iterable[FrozenAxis],
        coupled: Iterable[CoupledAxes],
        units: Mapping[int, int],
    ) -> None:
        self._graph = graph
        self._units = units
        self._choices = choices
        self._frozen: dict[int, list[FrozenAxis]] = {}
        for item in frozen:
            self._frozen.setdefault(item.op, []).append(item)
        self._coupled = {item.op: item for item in coupled}
        self._sharing: dict[int, set[int]] = {}
        for number, value in enumerate(graph.values):
            self._sharing.setdefault(value.alias, set()).add(number)
        self._consumed = graph.users.keys() | set(graph.ends)
        self._flattened: set[int] = set()
        """Values with a `FlattenedAxis`."""
        self.space = LabelSpace()
        self.values: dict[int, Axes] = {number: self._fresh(number) for number in graph.state.values()}
        self.split_choices: list[SplitChoice] = []
        self.statistics: set[int] = set()
        self.contractions: dict[int, Contraction] = {}
        self.unknown: list[Op] = []
        self.from_input: set[int] = set(graph.inputs)

    def _fresh(self, number: int) -> Axes:
        return tuple(self.space.fresh(n) if n > 1 else None for n in self._graph.values[number].shape)

    def axes(self, number: int) -> Axes:
        """Return the labels of a value; what came from outside the graph has a fixed size."""
        if number not in self.values:
            self.values[number] = (None,) * len(self._graph.values[number].shape)
        return self.values[number]

    def visit(self, op: Op) -> None:
        used = op.reads
        for number in used:
            self.axes(number)
        frozen = self._frozen.get(op.index, ())
        for item in frozen:
            if item.value in used:
                self._freeze(item, op)
        results = self._apply(op, used)
        depends = any(number in self.from_input for number in used)
        for position, ref in enumerate(op.outputs):
            if ref is None:
                continue
            shape = self._graph.values[ref.value].shape
            axes = results[position] if position < len(results) else (None,) * len(shape)
            self.values[ref.value] = tuple(a if n > 1 else None for a, n in zip(axes, shape, strict=True))
            if any(isinstance(axis, FlattenedAxis) for axis in axes):
                self._flattened.add(ref.value)
            if depends:
                self.from_input.add(ref.value)
        for item in frozen:
            if item.value not in used:
                self._freeze(item, op)
        if depends:
            for value in op.written:
                self.from_input |= self._sharing[self._graph.values[value].alias]
        if op.index in self._coupled:
            self._couple(self._coupled[op.index])

    def _freeze(self, item: FrozenAxis, op: Op) -> None:
        axis = self.values[item.value][item.axis]
        if item.places is not None and isinstance(axis, np.ndarray):
            axis = axis[list(item.places)]
        self.space.freeze(axis, Reason(item.text, op))

    def _couple(self, item: CoupledAxes) -> None:
        a, b = self.values[item.value][item.axis], self.values[item.other][item.other_axis]
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and b.size % a.size == 0:
            self.space.balance(np.concatenate([a[None], b.reshape(-1, a.size)]))

    def _apply(self, op: Op, used: tuple[int, ...]) -> list[Axes]:
        entry = rule_of(op.name)
        call = Call(
            op,
            self._graph.values,
            self.values,
            self.space,
            self._choices.get(op.index, 0),
            self._consumed,
            self._units.get(op.index),
        )
        if entry is None and not is_pointwise(op.target):
            return self._freeze_inputs(op, used)
        flattened = [number for number in used if number in self._flattened]
        if entry is None or not entry.accepts_ranked:
            for number in flattened:
                self.values[number] = tuple(call.without_ranks(axis) for axis in self.axes(number))
        if entry is not None and not entry.accepts_flattened:
            for number in flattened:
                for axis in self.axes(number):
                    if isinstance(axis, FlattenedAxis):
                        call.resolve(axis)
                self.values[number] = tuple(
                    axis.along_first() if isinstance(axis, FlattenedAxis) else axis
                    for axis in self.values[number]
                )
        results = elementwise(call) if entry is None else entry.rule(call)
        if call.split_choice is not None:
            self.split_choices.append(call.split_choice)
        if call.statistics:
            self.statistics.add(op.index)
        if call.contraction is not None:
            self.contractions[op.index] = call.contraction
        return list(results)

    def _freeze_inputs(self, op: Op, used: tuple[int, ...]) -> list[Axes]:
        reason = Reason("no rule for this operator", op)
        met = [axis for number in used for axis in self.axes(number) if axis is not None]
        for axis in met:
            self.space.freeze(axis, reason)
        if met:
            self.unknown.append(op)
        return []


@cache
def is_pointwise(target: torch._ops.OpOverload) -> bool:
    """Whether torch tags the operator, or the one that it is the in-place form of, as pointwise."""
    if torch.Tag.pointwise in target.tags:
        return True
    name = operator_name(target)
    base = name.removeprefix("aten.").removesuffix("_")
    packet = getattr(torch.ops.aten, base, None) if name.endswith("_") else None
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )
