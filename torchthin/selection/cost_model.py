"""What a model costs for any choice of channels, from the recorded shapes alone; multiply-accumulates are those of one sample.

Every count is a product of axis sizes: the parameters of a tensor, and the multiply-accumulates of a convolution or a
matrix product, as torch's flop counter has them. The labels say how many indices of each axis stay.
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

    def of(self, name: str) -> int:
        """Return the count called ``parameters`` or ``macs``."""
        return self.parameters if name == "parameters" else self.macs


class CostModel:
    """Counts parameters and MACs for any choice of channels."""

    def __init__(
        self,
        model: nn.Module,
        labels: Labels,
        grouping: Grouping,
        whole: Cost,
        shares: Mapping[int, Fraction],
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
        self._parameters, self._macs = self._table(parameters), self._table(macs)
        of_sample = [shares.get(op.index, Fraction(1)) for op in counted]
        self._numerators = np.array([share.numerator for share in of_sample], np.int64)
        self._denominators = np.array([share.denominator for share in of_sample], np.int64)
        self._flat = np.concatenate(
            [np.zeros(0, np.int64), *(self._of_label[vector] for _, vector in self._vectors)]
        )
        self._flat_axis = np.repeat(
            [axis for axis, _ in self._vectors], [vector.size for _, vector in self._vectors]
        ).astype(np.int64)
        fixed = np.concatenate([np.zeros(0, np.bool_), *(vector == FROZEN for _, vector in self._vectors)])
        self._flat, self._flat_axis = self._flat[~fixed], self._flat_axis[~fixed]
        self._rest = Counts(0, 0)
        full = self.cost({})
        self._rest = Counts(whole.parameters - full.parameters, whole.macs - full.macs)
        self.whole = Counts(whole.parameters, whole.macs)

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

    def cost(self, keeps: Mapping[str, BoolArray]) -> Counts:
        """Return what the model costs with the channels of `keeps` (group name -> True = keep); other groups are whole."""
        removed = np.zeros(self._grouping.components.reason.size, np.bool_)
        for name, keep in keeps.items():
            removed[self._grouping.channels[name][~keep]] = True
        sizes = np.array([*self._sizes, 1], np.int64)
        lost = np.bincount(self._flat_axis[removed[self._flat]], minlength=sizes.size)
        sizes -= lost
        for number, merged in self._merged:
            kept = merged.spread(lambda v: ~removed[self._of_label[v]] | (v == FROZEN))
            sizes[number] = int(kept.sum())
        macs = sizes[self._macs].prod(axis=1) * self._numerators // self._denominators
        parameters = sizes[self._parameters].prod(axis=1)
        return Counts(int(parameters.sum()) + self._rest.parameters, int(macs.sum()) + self._rest.macs)
