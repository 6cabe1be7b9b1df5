"""What the channels of a group are: attention heads, MLP width, hidden width, ... found in the graph, not by names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np

from torchthin.dependency.components import Components, Grouping, components
from torchthin.dependency.groups import IntArray
from torchthin.dependency.labels import FROZEN, Axes, Axis, FlattenedAxis, Vector
from torchthin.dependency.producers import summed_axis, with_tables
from torchthin.dependency.propagate import Labels, propagate
from torchthin.graph.operators import ADDITIONS, ATTENTION, BATCHED_PRODUCTS, CONVOLUTIONS, MOVES
from torchthin.graph.opgraph import Op, OpGraph

KINDS = {
    "channels": "made by convolutions alone",
    "heads": "attention heads, those of one key and value together",
    "head_dim": "width of attention heads: the same place of every head",
    "mlp": "width between linear layers, of which the last writes into the residual stream if there is one",
    "hidden": "residual stream: what blocks add to",
    "linear": "width between other linear layers, such as a pooler and a classifier",
    "experts": "experts of a mixture, each with its row of the router",
    "states": "hidden states of recurrent layers",
    "embedding": "width of an embedding",
}
"""Kinds of groups, and what they are."""

_COPIES = MOVES | {"aten._to_copy"}
_SOFTMAX = frozenset({"aten._softmax", "aten._safe_softmax"})
OUTPUT = "output"
"""Kind of the weights that make what the model returns, of which nothing can be removed: no key of `KINDS`."""
INNER = ("channels", "heads", "mlp", "states")
"""Kinds that a model with attention loses where nothing else was asked."""


@dataclass(frozen=True)
class Kinds:
    """The kinds of a labelling: keys of `KINDS`."""

    of_groups: Mapping[str, str]
    """Group name -> kind, for every group that something produces."""
    of_weights: Mapping[str, str]
    """Weight name -> kind of the channels that it makes, frozen or not."""


def kinds_of(grouping: Grouping, labels: Labels) -> Kinds:
    """Return what the channels of all groups and weights are."""
    tables = with_tables(labels)
    seen = _Seen(labels, grouping.components)
    recurrent = {item.weight for item in labels.graph.recurrent}
    of_label = grouping.components.of_label
    of_weights = {}
    for name, axis in tables.items():
        vector = labels.state[name][axis]
        if isinstance(vector, np.ndarray):
            of_weights[name] = "states" if name in recurrent else seen.kind(of_label[vector])
    of_groups = {}
    for group in grouping.groups.groups:
        made_by = {m.parameter for m in group.members if tables.get(m.parameter) == m.axis}
        if made_by:
            comps = grouping.channels[group.name]
            of_groups[group.name] = "states" if made_by & recurrent else seen.kind(comps)
    return Kinds(of_groups, of_weights)


def multiplies_data(graph: OpGraph) -> bool:
    """Whether somewhere what depends on the input is multiplied with what depends on it, as attention does."""
    return any(True for _ in _products_of_data(graph))


def attends(graph: OpGraph) -> bool:
    """Whether somewhere what depends on the input is weighed by a softmax of what depends on it, whatever its heads are."""
    weights: set[int] = set()
    for op in graph.ops:
        if op.name in _SOFTMAX or (op.name in _COPIES and not weights.isdisjoint(op.reads)):
            weights.update(op.results)
    return any(op.name in ATTENTION or not weights.isdisjoint(op.reads) for op in _products_of_data(graph))


def _products_of_data(graph: OpGraph) -> Iterator[Op]:
    """Yield the products of what depends on the input with what depends on it."""
    reached = set(graph.inputs)
    for op in graph.ops:
        if any(True for _ in _multiplied(op, reached)):
            yield op
        if not reached.isdisjoint(op.reads):
            reached.update(op.results)


def whole_heads(graph: OpGraph) -> dict[int, int]:
    """Return where an axis is divided into heads and their width: op index -> axis of its result that counts the heads.

    Found by dividing it in every way: heads are what attention multiplies apart, widths what it sums over.
    """
    return _units(graph, lambda seen: (seen.heads, seen.widths))


def head_widths(graph: OpGraph) -> dict[int, int]:
    """Return the same with the axis along which heads are wide."""
    return _units(graph, lambda seen: (seen.widths, seen.heads))


def _units(graph: OpGraph, roles: Callable[[_Seen], tuple[IntArray, IntArray]]) -> dict[int, int]:
    """Return where an axis is divided and one of the ways has the first role: op index -> the axis of that way.

    A way that has the other role alone is given up for the next ones, until one has the first role.
    """
    found: dict[int, int] = {}
    choices: dict[int, int] = {}
    if not multiplies_data(graph):
        return found
    while True:
        labels = propagate(graph, choices)
        ties = components(labels.space)
        wanted, other = roles(_Seen(labels, ties))
        again = False
        for site in labels.split_choices:
            unit = site.candidates[site.chosen]
            if site.op.index in found or not unit.startswith("unit "):
                continue
            comps = ties.of_label[site.labels]
            if np.isin(comps, wanted).any():
                found[site.op.index] = int(unit.removeprefix("unit "))
            elif site.chosen < len(site.candidates) - 2 and (
                site.op.index in choices or np.isin(comps, other).any()
            ):
                choices[site.op.index] = site.chosen + 1
                again = True
        if not again:
            return found


@dataclass(frozen=True)
class _Seen:
    """What is done along the axes on which components lie."""

    labels: Labels
    found: Components

    def kind(self, comps: IntArray) -> str:
        """Return the kind of a group with these components, but for hidden states."""
        if self._met(comps, self.heads):
            return "heads"
        convolved, linear = (self._met(comps, made) for made in self.made)
        if convolved and not linear:
            return "channels"
        if self._met(comps, self.residual):
            return "hidden"
        if self._met(comps, self.widths):
            return "head_dim"
        if self._met(comps, self.output):
            return OUTPUT
        if not linear or self._met(comps, self.looked_up):
            return "embedding"
        return "mlp" if not self._sums or self._met(comps, self.added) else "linear"

    @staticmethod
    def _met(comps: IntArray, among: IntArray) -> bool:
        return bool(np.isin(comps, among).any())

    def _of(self, axes: Iterable[Axis]) -> IntArray:
        """Return the components along some axes."""
        vectors = [vector[vector != FROZEN] for axis in axes if axis is not None for vector in _parts(axis)]
        return np.unique(self.found.of_label[np.concatenate(vectors)]) if vectors else np.zeros(0, np.int64)

    @cached_property
    def _operands(self) -> list[tuple[Axes, int]]:
        """Axes of everything that attention multiplies, data by data, each with the number of its batch axes."""
        labels = self.labels
        return [
            (labels.values[value], batch)
            for op in labels.graph.ops
            for value, batch in _multiplied(op, labels.from_input)
        ]

    @cached_property
    def heads(self) -> IntArray:
        """What is multiplied apart."""
        return self._of(axis for axes, batch in self._operands for axis in axes[:batch])

    @cached_property
    def output(self) -> IntArray:
        """What the model returns."""
        return self._of(axis for value in self.labels.graph.outputs for axis in self.labels.values[value])

    @cached_property
    def widths(self) -> IntArray:
        """What is summed over, or comes out."""
        return self._of(axis for axes, batch in self._operands for axis in axes[batch:])

    @cached_property
    def _layers(self) -> dict[int, tuple[bool, Axis, Axis]]:
        """Of every op that sums over a weight: whether it is a convolution, what it reads and what it makes."""
        labels, ops = self.labels, self.labels.graph.by_index
        found = {}
        for index, item in labels.contractions.items():
            weight = labels.values[item.weight]
            if item.weight not in labels.from_input and len(weight) > 1:
                summed = summed_axis(ops[index], len(weight))
                convolution = ops[index].name in CONVOLUTIONS
                first = 0 if convolution else len(weight) - 2
                found[index] = convolution, weight[summed], weight[2 * first + 1 - summed]
        return found

    @cached_property
    def made(self) -> tuple[IntArray, IntArray]:
        """What the weights of convolutions make, and those of other products."""
        layers = self._layers.values()
        by_convolutions = [made for convolution, _, made in layers if convolution]
        return self._of(by_convolutions), self._of(made for conv, _, made in layers if not conv)

    @cached_property
    def added(self) -> IntArray:
        """What layers read that write into the residual stream."""
        layers = self._layers
        last = {self._layer_before(value) for _, value in self._sums}
        return self._of(
            read
            for index, (_, read, made) in layers.items()
            if index in last or self._met(self._of([made]), self.residual)
        )

    def _layer_before(self, value: int) -> int | None:
        """Return the op of the layer whose result a value is, but for what keeps or scales every channel of it."""
        graph = self.labels.graph
        while (op := graph.producer.get(value)) is not None and op.index not in self._layers:
            data = [read for read in op.reads if read in self.labels.from_input]
            if len(data) != 1:
                return None
            value = data[0]
        return None if op is None else op.index

    @cached_property
    def looked_up(self) -> IntArray:
        """Columns of embeddings, also where a layer makes what is compared with them (tied heads)."""
        labels = self.labels
        tables = [op.value("weight") for op in labels.graph.ops if op.name == "aten.embedding"]
        return self._of(labels.values[table][-1] for table in tables if table is not None)

    @cached_property
    def residual(self) -> IntArray:
        """What is added to what it was computed from."""
        return self._of(axis for op, _ in self._sums for axis in self.labels.values[op.results[0]])

    @cached_property
    def _sums(self) -> list[tuple[Op, int]]:
        """The sums of a value and what a layer computed from it, each with the latter."""
        labels = self.labels
        found: list[tuple[Op, int]] = []
        made: dict[int, int] = {}
        before: dict[int, int] = {}  # sum -> what it was added to: parallel branches start from there
        for place, op in enumerate(labels.graph.ops):
            added = [op.value(name) for name in ("self", "other")] if op.name in ADDITIONS else []
            pairs = permutations([value for value in added if value in labels.from_input], 2)
            for value, source in pairs:
                starts = [source, before[source]] if source in before else [source]
                if any(_comes_from(labels, value, start, made, place) for start in starts):
                    found.append((op, value))
                    before[op.results[0]] = starts[-1]
            made.update(dict.fromkeys(op.results, place))
        return found


def _multiplied(op: Op, from_input: Set[int]) -> Iterator[tuple[int, int]]:
    """Yield the operands of a product of data by data, each with the number of its batch axes."""
    if op.name in BATCHED_PRODUCTS:
        names: tuple[str, ...] = BATCHED_PRODUCTS[op.name][:2]
    elif op.name in ATTENTION:
        names = ("query", "key", "value")
    else:
        return
    values = [value for value in map(op.value, names) if value is not None]
    if all(value in from_input for value in values):
        yield from ((value, 2 if op.name in ATTENTION else 1) for value in values)


def _comes_from(labels: Labels, value: int, source: int, made: Mapping[int, int], end: int) -> bool:
    """Whether a layer computed a value from another one, between where that one was made and place `end` of the ops.

    made: value -> place of the op that made it, or changed it last before `end`.
    """
    ops = labels.graph.ops
    reached, start = {source}, made.get(source, -1)
    while start >= 0 and ops[start].name in _COPIES and len(ops[start].reads) == 1:
        source = ops[start].reads[0]
        reached.add(source)
        start = made.get(source, -1)
    passed: set[int] = set()
    for op in ops[start + 1 : end]:
        met = not reached.isdisjoint(op.reads)
        if not passed.isdisjoint(op.reads) or (met and _is_layer(labels, op)):
            passed.update(op.results)
        elif met:
            reached.update(op.results)
    return value in passed


def _is_layer(labels: Labels, op: Op) -> bool:
    """Whether an op sums over a weight: over what depends on the input, recurrences do as they update what they keep."""
    found = labels.contractions.get(op.index)
    return found is not None and found.weight not in labels.from_input


def _parts(axis: Vector | FlattenedAxis) -> tuple[Vector, ...]:
    return axis.parts if isinstance(axis, FlattenedAxis) else (axis,)
