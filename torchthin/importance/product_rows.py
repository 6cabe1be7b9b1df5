"""Products as rows: some outputs of a convolution or a product of matrices, and the inputs of which each is a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from torchthin.graph.operators import CONVOLUTIONS, LAYER_PRODUCTS, operator_name

LEAST = 4096
"""Rows that a fit takes at least, where there are as many."""
FOLD = 6
"""Rows for each unknown of a filter, at least."""
FLOATS = 2**26
"""Numbers that the rows of one layer hold at most."""


def sampled(samples: int, size: int, unknowns: int, seed: int) -> Tensor:
    """Return which outputs are looked at, drawn at random, the same number for every sample: (samples, count), sorted.

    size: outputs of each sample; unknowns: weights of a filter.
    """
    wanted = min(max(LEAST, FOLD * unknowns), max(FLOATS // max(unknowns, 1), 1))
    count = min(max(-(-wanted // samples), 1), size)
    generator = torch.Generator().manual_seed(seed)
    if count == size:
        return torch.arange(size).expand(samples, size)
    return torch.rand(samples, size, generator=generator).topk(count, dim=1).indices.sort(dim=1).values


@dataclass(frozen=True)
class Product:
    """One call of an operator of `LAYER_PRODUCTS`."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def is_convolution(self) -> bool:
        """Whether it is one."""
        return operator_name(self.func) in CONVOLUTIONS

    @property
    def is_transposed(self) -> bool:
        """Whether it is a transposed convolution, of which there are no rows."""
        return self.is_convolution and bool(self.args[6])

    @property
    def data(self) -> Tensor:
        """The activations."""
        data: Tensor = self.args[0 if self.is_convolution or not self._has_addend else 1]
        return data

    @property
    def weight(self) -> Tensor:
        """(outputs, inputs of a conv group, *kernel)."""
        weight: Tensor = self.args[1] if self.is_convolution else self.args[-1].mT
        return weight

    @property
    def bias(self) -> Tensor | None:
        """What is added."""
        if not self._has_addend:
            return None
        bias: Tensor | None = self.args[2 if self.is_convolution else 0]
        return bias

    @property
    def _has_addend(self) -> bool:
        return LAYER_PRODUCTS[operator_name(self.func)].bias is not None

    @property
    def groups(self) -> int:
        """Conv groups."""
        return int(self.args[8]) if self.is_convolution else 1

    def run(self) -> Tensor:
        """Return what the call returns."""
        result: Tensor = self.func(*self.args, **self.kwargs)
        return result

    def run_with(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the call returns with another weight and bias; bias: None where there was none."""
        if self.is_convolution:
            args: tuple[Any, ...] = (self.data, weight, bias, *self.args[3:])
        else:
            args = (self.data, weight.mT) if bias is None else (bias, self.data, weight.mT)
        result: Tensor = self.func(*args, **self.kwargs)
        return result

    def places(self, seed: int) -> Tensor:
        """Return which outputs are looked at (see `sampled`): pixels of every sample; for matrices (1, rows)."""
        unknowns = self.weight[0].numel()
        if not self.is_convolution:
            return sampled(1, len(self.data), unknowns, seed)
        return sampled(len(self.data), int(torch.Size(self._output_size()).numel()), unknowns, seed)

    def output_rows(self, result: Tensor, places: Tensor) -> Tensor:
        """Return outputs of the call at the places: (rows, channels)."""
        if not self.is_convolution:
            return result[places[0].to(result.device)]
        flat = result.flatten(2)
        index = places.to(flat.device)[:, None].expand(-1, flat.shape[1], -1)
        return flat.gather(2, index).transpose(1, 2).flatten(0, 1)

    def input_rows(self, places: Tensor) -> Tensor:
        """Return the inputs of which those outputs are sums: (conv groups, rows, weights of a filter)."""
        if not self.is_convolution:
            return self.data[places[0].to(self.data.device)][None]
        stride, padding, dilation = self._options()
        values = functional.pad(self.data, [side for pad in reversed(padding) for side in (pad, pad)])
        kernel, size = self.weight.shape[2:], self._output_size()
        dims = len(size)
        index = places.to(values.device)
        where: list[Tensor] = []
        for d in reversed(range(dims)):
            along, index = index % size[d], index // size[d]
            offsets = torch.arange(kernel[d], device=values.device) * dilation[d]
            shape = [*along.shape, *(kernel[d] if other == d else 1 for other in range(dims))]
            where.append((along[..., None] * stride[d] + offsets).reshape(shape))
        sample = torch.arange(len(values), device=values.device).reshape(-1, *[1] * (dims + 1))
        taken = values.movedim(1, -1)[(sample, *reversed(where))]  # samples, places, *kernel, channels
        taken = taken.movedim(-1, 2).flatten(0, 1)  # rows, channels, *kernel
        return taken.reshape(len(taken), self.groups, -1).transpose(0, 1)

    def _options(self) -> list[tuple[int, ...]]:
        """Return stride, padding and dilation along each axis; in the call one number may stand for all axes."""
        dims = self.weight.dim() - 2
        options: Sequence[Sequence[int]] = self.args[3:6]
        return [tuple(option) * dims if len(option) == 1 else tuple(option) for option in options]

    def _output_size(self) -> list[int]:
        """Return height, width, ... of the output."""
        stride, padding, dilation = self._options()
        sides = zip(self.data.shape[2:], padding, dilation, self.weight.shape[2:], stride, strict=True)
        return [
            (length + 2 * pad - step * (taps - 1) - 1) // jump + 1 for length, pad, step, taps, jump in sides
        ]


def grouped(rows: Tensor, groups: int) -> Tensor:
    """Return (rows, channels) as (conv groups, rows, channels of a group)."""
    return rows.reshape(len(rows), groups, -1).transpose(0, 1)
