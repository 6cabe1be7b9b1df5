"""Second moments of what the consumers of a group take in: all that is needed to tell what is lost once they are refitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchthin.dependency.propagate import Labels
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import LAYER_PRODUCTS, operator_name
from torchthin.graph.opgraph import Op
from torchthin.importance.channels import widened
from torchthin.importance.product_rows import Product

WIDEST = 8192
"""Inputs of one output at most (a square matrix of so many is kept for a layer); wider layers are left out."""


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

    @property
    def mean(self) -> Tensor:
        """Return the mean of every input (columns,)."""
        assert isinstance(self.total, Tensor)
        return self.total / self.count

    def covariance(self) -> Tensor:
        """Return the covariance (columns, columns)."""
        assert isinstance(self.squares, Tensor)
        mean = self.mean
        return self.squares / self.count - mean[:, None] * mean


class MomentsMode(CountingMode):
    """Adds to `found`, by the op's number, the inputs of convolutions and products of matrices that sum over channels.

    Left out: transposed convolutions, those with conv groups, layers with more than `WIDEST` inputs.
    """

    def __init__(self, labels: Labels, found: dict[int, Moments], used: Mapping[str, Tensor]) -> None:
        """used: rows of linear layers that matter, see `torchthin.importance.used_rows`."""
        super().__init__(0, labels.graph.call_sites[0])
        self._used = used
        self._ops = {op.index: op for op in labels.graph.ops if op.index in labels.contractions}
        self._found = found

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look at what goes in, and run the op."""
        op = self._ops.get(self.completed) if self.recorded else None
        if op is not None and op.target is func and operator_name(func) in LAYER_PRODUCTS:
            self._add(op, Product.of(func, args, kwargs))
        return func(*args, **kwargs)

    def _add(self, op: Op, product: Product) -> None:
        number = op.index
        if product.is_transposed or product.groups > 1 or product.weight[0].numel() > WIDEST:
            return
        rows = product.input_rows(product.places(number, self._used.get(op.source.module)))[0]
        if number not in self._found:
            weight = product.weight.detach().double()
            self._found[number] = Moments(weight.flatten(1), weight[0, 0].numel())
        self._found[number].add(widened(rows.detach()))
