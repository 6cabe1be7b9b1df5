"""Second moments of what the layers behind a group take in: all that is needed to say what refitting them can mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchthin.dependency.propagate import Labels
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import CONVOLUTIONS, LAYER_PRODUCTS, by_name
from torchthin.graph.opgraph import Op
from torchthin.importance.channels import widened
from torchthin.importance.product_rows import Geometry, Places, pixel_inputs

WIDEST = 8192
"""Inputs of one output at most (a square matrix of so many is kept for a layer); wider layers are not looked at."""


@dataclass
class Moments:
    """Of the inputs of one layer, added up batch by batch."""

    weight: Tensor
    """(outputs, columns), float64; a column is one input of every output: a channel at one tap of the kernel."""
    taps: int
    """Columns for each index of the axis that is summed over; those of one index lie side by side."""
    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Add inputs (rows, columns); products are taken in their own precision, sums in float64."""
        self.count += len(rows)
        self.total = self.total + rows.sum(0, dtype=torch.float64)
        self.squares = self.squares + (rows.mT @ rows).double()

    def covariance(self) -> Tensor:
        """Return the covariance (columns, columns)."""
        assert isinstance(self.total, Tensor) and isinstance(self.squares, Tensor)
        mean = self.total / self.count
        return self.squares / self.count - mean[:, None] * mean


class MomentsMode(CountingMode):
    """Adds to `found`, by the op's number, the inputs of convolutions and products of matrices that sum over channels.

    Left out: transposed convolutions, those with conv groups, layers with more than `WIDEST` inputs.
    """

    def __init__(self, labels: Labels, found: dict[int, Moments]) -> None:
        super().__init__(0, labels.graph.calls(0))
        self._ops = {op.index: op for op in labels.graph.ops if op.index in labels.contractions}
        self._found = found

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look at what goes in, and run the op."""
        op = self._ops.get(self.completed) if self.recorded else None
        if op is not None and op.target is func:
            self._look(op, by_name(func, args, kwargs))
        return func(*args, **kwargs)

    def _look(self, op: Op, arguments: dict[str, Any]) -> None:
        names = LAYER_PRODUCTS.get(op.name)
        if names is None:
            return
        data, weight = arguments[names.data], arguments[names.weight]
        if op.name not in CONVOLUTIONS:
            self._add_product(op.index, data, weight)
        elif not arguments["transposed"] and arguments["groups"] == 1:
            options = [arguments[name] for name in ("stride", "padding", "dilation")]
            self._add_convolution(op.index, data, weight, options)

    def _add_convolution(
        self, number: int, data: Tensor, weight: Tensor, options: Sequence[Sequence[int]]
    ) -> None:
        columns = weight[0].numel()
        if columns > WIDEST:
            return
        how = Geometry.of(weight, options, 1)
        size = how.output_size(data)
        places = Places.draw(len(data), int(torch.Size(size).numel()), columns, number)
        rows = pixel_inputs(data.detach(), places, how, size)[0]
        self._add(number, rows, weight.flatten(1), weight[0, 0].numel())

    def _add_product(self, number: int, data: Tensor, weight: Tensor) -> None:
        if data.shape[1] > WIDEST:
            return
        places = Places.draw(1, len(data), data.shape[1], number)
        self._add(number, data.detach()[places.index[0].to(data.device)], weight.mT, 1)

    def _add(self, number: int, rows: Tensor, weight: Tensor, taps: int) -> None:
        if number not in self._found:
            self._found[number] = Moments(weight.detach().double(), taps)
        self._found[number].add(widened(rows))
