"""What a model costs for any choice of channels, from the recorded shapes alone; multiply-accumulates are those of one sample.

Every count is a product of axis sizes: the parameters of a tensor, and the multiply-accumulates of a convolution or a
matrix product, as torch's flop counter has them. The labels say how many indices of each axis stay. With measured layer times
(`torchthin.selection.layer_times`) the latency of the whole example is foretold as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from torchthin.dependency.components import Grouping
from torchthin.dependency.groups import IntArray
from torchthin.dependency.labels import FROZEN, FlattenedAxis, Vector
from torchthin.dependency.propagate import Labels
from torchthin.graph.cost import Cost
from torchthin.graph.operators import CONVOLUTIONS, PRODUCTS
from torchthin.graph.opgraph import BRANCH, Op, OpGraph
from torchthin.selection.layer_times import Duration, LayerTimes, TimedLayer, axes_read, probes, variables_of

BoolArray = npt.NDArray[np.bool_]
ValueAxis = tuple[int, int]
"""Value number and axis."""


def _convolution(op: Op, graph: OpGraph) -> list[ValueAxis]:
    """Batch, positions (of the result; transposed, of the input) and all axes of the weight."""
    data, weight = op.arguments["input"].value, op.arguments["weight"].value
    out = op.outputs[0]
    assert out is not None
    swept = data if op.arguments.get("transposed", False) else out.value
    positions = [(swept, axis) for axis in range(2, len(graph.values[swept].shape))]
    return [(data, 0), *positions, *((weight, axis) for axis in range(len(graph.values[weight].shape)))]


def _product(first: str, second: str) -> Callable[[Op, OpGraph], list[ValueAxis]]:
    """All axes of the first matrix and the last one of the second."""

    def axes_of(op: Op, graph: OpGraph) -> list[ValueAxis]:
        a, b = op.arguments[first].value, op.arguments[second].value
        dims = len(graph.values[a].shape)
        return [*((a, axis) for axis in range(dims)), (b, dims - 1)]

    return axes_of


COUNTED: dict[str, Callable[[Op, OpGraph], list[ValueAxis]]] = {
    name: axes_of
    for name, axes_of in (
        *((name, _convolution) for name in CONVOLUTIONS),
        *((name, _product(data, weight)) for name, (data, weight, _) in PRODUCTS.items()),
    )
    if getattr(torch.ops.aten, name.removeprefix("aten.")) in flop_registry
}
"""Operator that torch's counter knows -> the axes whose sizes multiply to its MACs."""


@dataclass(frozen=True)
class Counts:
    """What a choice of channels costs."""

    parameters: int
    macs: int
    latency: int = 0
    """Nanoseconds; 0 where nothing was timed."""

    def of(self, name: str) -> int:
        """Return the count called ``parameters``, ``macs`` or ``latency``."""
        return {"parameters": self.parameters, "macs": self.macs, "latency": self.latency}[name]


class CostModel:
    """Counts parameters and MACs, and adds up times, for any choice of channels."""

    def __init__(
        self,
        model: nn.Module,
        labels: Labels,
        grouping: Grouping,
        whole: Cost,
        shares: Mapping[int, Fraction],
        times: LayerTimes | None = None,
    ) -> None:
        """Take the model's shapes from its record; what costs nothing that is counted here stays as `whole` has it.

        The record is of the example, `whole` of one sample; `shares` are those of `torchthin.graph.cost.shares_of_sample`.
        """
        self._grouping = grouping
        self._of_label = grouping.components.of_label
        self._axes: dict[ValueAxis, int] = {}
        self._sizes: list[int] = []
        self._vectors: list[tuple[int, Vector]] = []
        self._merged: list[tuple[int, FlattenedAxis]] = []
        self._labels = labels
        graph = labels.graph
        learnt = {name for name, _ in model.named_parameters()}
        parameters = [
            [self._axis((number, axis)) for axis in range(len(graph.values[number].shape))]
            for name, number in graph.state.items()
            if name in learnt
        ]
        counted = [op for op in graph.ops if op.name in COUNTED and abs(op.index) < BRANCH]
        macs = [[self._axis(at) for at in COUNTED[op.name](op, graph)] for op in counted]
        timed = {} if times is None else axes_read(graph)
        _ = [self._axis(at) for axes in timed.values() for at in axes]
        self._parameters, self._macs = self._table(parameters), self._table(macs)
        of_sample = [shares.get(op.index, Fraction(1)) for op in counted]
        self._numerators = np.array([share.numerator for share in of_sample], np.int64)
        self._denominators = np.array([share.denominator for share in of_sample], np.int64)
        self._flat, self._flat_axis = self._flattened()
        self._rest = Counts(0, 0)
        self._times = _Times([], 0.0, 1.0, 1.0) if times is None else self._timed(graph, timed, times)
        full = self.cost({})
        self._rest = Counts(whole.parameters - full.parameters, whole.macs - full.macs)
        self.whole = Counts(whole.parameters, whole.macs, 0 if times is None else round(times.whole))

    def _flattened(self) -> tuple[IntArray, IntArray]:
        """Return the components along all axes with labels, one after the other, and the axis of each."""
        flat = np.concatenate(
            [np.zeros(0, np.int64), *(self._of_label[vector] for _, vector in self._vectors)]
        )
        axes = np.repeat(
            [axis for axis, _ in self._vectors], [vector.size for _, vector in self._vectors]
        ).astype(np.int64)
        fixed = np.concatenate([np.zeros(0, np.bool_), *(vector == FROZEN for _, vector in self._vectors)])
        return flat[~fixed], axes[~fixed]

    def _timed(self, graph: OpGraph, axes: Mapping[int, list[ValueAxis]], times: LayerTimes) -> _Times:
        """Return how long each op takes, where those of the whole model together take as long as it does."""
        cuts = [
            self._sizes_without(cut) for cut in probes([*self._grouping.channels.values()], self._components)
        ]
        full = {at: self._sizes[number] for at, number in self._axes.items()}
        cut = {at: [int(sizes[number]) for sizes in cuts] for at, number in self._axes.items()}
        layers = [
            TimedLayer(graph.ops[place], graph, variables_of(read, full, cut)) for place, read in axes.items()
        ]
        known = [
            (layer, np.array([self._axes[each[0]] for each in layer.variables], np.int64), duration)
            for layer, duration in zip(layers, times.durations(layers), strict=True)
            if duration is not None
        ]
        alone = sum(duration(layer.sizes) for layer, _, duration in known)
        return _Times(known, times.whole, times.whole / alone if alone else 1.0, times.gain)

    def _axis(self, at: ValueAxis) -> int:
        if at not in self._axes:
            value, axis = at
            number = self._axes[at] = len(self._sizes)
            self._sizes.append(self._labels.graph.values[value].shape[axis])
            labels = self._labels.values[value][axis] if value in self._labels.values else None
            if isinstance(labels, FlattenedAxis):
                self._merged.append((number, labels))
            elif labels is not None:
                self._vectors.append((number, labels))
        return self._axes[at]

    def _table(self, products: Iterable[list[int]]) -> IntArray:
        """Return one row of axis numbers for each product; -1 stands for a factor of 1."""
        rows = list(products)
        table = np.full((len(rows), max((len(row) for row in rows), default=0)), -1, np.int64)
        for number, row in enumerate(rows):
            table[number, : len(row)] = row
        return table

    @property
    def _components(self) -> int:
        return int(self._grouping.components.reason.size)

    def _removed(self, keeps: Mapping[str, BoolArray]) -> BoolArray:
        removed = np.zeros(self._components, np.bool_)
        for name, keep in keeps.items():
            removed[self._grouping.channels[name][~keep]] = True
        return removed

    def _sizes_without(self, removed: BoolArray) -> IntArray:
        """Return the size of every axis without the components that are removed, and at last 1."""
        sizes = np.array([*self._sizes, 1], np.int64)
        lost = np.bincount(self._flat_axis[removed[self._flat]], minlength=sizes.size)
        sizes -= lost
        for number, merged in self._merged:
            kept = merged.spread(lambda v: ~removed[self._of_label[v]] | (v == FROZEN))
            sizes[number] = int(kept.sum())
        return sizes

    def slowest(self, keeps: Mapping[str, BoolArray]) -> list[tuple[str, float]]:
        """Return the modules whose ops were timed, with their nanoseconds in all, the slowest first."""
        found: dict[str, float] = {}
        for layer, nanoseconds in self._times.of_layers(self._sizes_without(self._removed(keeps))):
            name = layer.op.source.module or "the model"
            found[name] = found.get(name, 0.0) + nanoseconds
        return sorted(found.items(), key=lambda item: -item[1])

    def cost(self, keeps: Mapping[str, BoolArray]) -> Counts:
        """Return what the model costs with the channels of `keeps` (group name -> True = keep); other groups are whole."""
        sizes = self._sizes_without(self._removed(keeps))
        macs = sizes[self._macs].prod(axis=1) * self._numerators // self._denominators
        parameters = sizes[self._parameters].prod(axis=1)
        return Counts(
            int(parameters.sum()) + self._rest.parameters,
            int(macs.sum()) + self._rest.macs,
            self._times.total(sizes),
        )


@dataclass(frozen=True)
class _Times:
    """The time of a model as a sum over its ops.

    What is no op (Python between them) counts as part of each; what that makes wrong is in the gain once a cut was measured.
    """

    known: list[tuple[TimedLayer, IntArray, Duration]]
    """Ops, the axes that are their variables, and how long they take."""
    whole: float
    """Nanoseconds of the full model."""
    scale: float
    """What the full model takes, in units of its ops one by one."""
    gain: float

    def of_layers(self, sizes: IntArray) -> list[tuple[TimedLayer, float]]:
        """Return how long each op takes where axes have these sizes."""
        return [
            (layer, self.scale * duration(tuple(sizes[axes].tolist())))
            for layer, axes, duration in self.known
        ]

    def total(self, sizes: IntArray) -> int:
        """Return the nanoseconds of the whole model."""
        if not self.known:
            return round(self.whole)
        saved = self.whole - sum(nanoseconds for _, nanoseconds in self.of_layers(sizes))
        return max(round(self.whole - self.gain * saved), 0)
