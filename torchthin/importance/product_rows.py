"""Products as rows: some outputs of a convolution or a product of matrices, and the inputs of which each is a sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from torchthin.graph.operators import CONVOLUTIONS, operator_name

LEAST = 4096
"""Least number of rows that a fit takes, if the data have as many."""
LEAST_OF_MATRIX = 16384
"""The same for products of matrices, whose rows (tokens) are of more kinds than the pixels of a channel."""
LEAST_OF_GROUPS = 1024
"""The same for convolutions with conv groups: each group has few weights, and rows of its own."""
FOLD = 6
"""Rows for each unknown of a filter, at least."""
FLOATS = 2**26
"""Numbers that the rows of one layer hold at most."""
PART = 2**22
"""Numbers that the rows of one part hold, about."""


def sampled(samples: int, size: int, unknowns: int, seed: int, least: int = LEAST) -> Tensor:
    """Return which outputs are looked at, drawn at random, the same number for every sample: (samples, count), sorted.

    size: outputs of each sample; unknowns: weights of a filter; least: rows in all, if there are as many.
    """
    wanted = min(max(least, FOLD * unknowns), max(FLOATS // max(unknowns, 1), 1))
    count = min(max(-(-wanted // samples), 1), size)
    generator = torch.Generator().manual_seed(seed)
    if count == size:
        return torch.arange(size).expand(samples, size)
    return torch.rand(samples, size, generator=generator).topk(count, dim=1).indices.sort(dim=1).values


@dataclass(frozen=True)
class Product:
    """One call of an operator of `LAYER_PRODUCTS`."""

    func: Any
    data: Tensor
    """The activations."""
    weight: Tensor
    """(outputs, inputs of a conv group, *kernel)."""
    bias: Tensor | None
    """What is added."""
    options: tuple[Any, ...] | None
    """Of a convolution: stride, padding, dilation, transposed, output padding, conv groups; None: a product of matrices."""
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product:
        """Return the call with these arguments."""
        if operator_name(func) in CONVOLUTIONS:
            data, weight, bias, *options = args
            return cls(func, data, weight, bias, tuple(options), kwargs)
        *addend, data, weight = args
        return cls(func, data, weight.mT, addend[0] if addend else None, None, kwargs)

    @property
    def is_transposed(self) -> bool:
        """Whether it is a transposed convolution, which has no rows."""
        return self.options is not None and bool(self.options[3])

    @property
    def groups(self) -> int:
        """Conv groups."""
        return 1 if self.options is None else int(self.options[5])

    def run(self) -> Tensor:
        """Return the result."""
        if self.options is None:
            addend = () if self.bias is None else (self.bias,)
            args: tuple[Any, ...] = (*addend, self.data, self.weight.mT)
        else:
            args = (self.data, self.weight, self.bias, *self.options)
        result: Tensor = self.func(*args, **self.kwargs)
        return result

    def places(self, seed: int, used: Tensor | None = None) -> Tensor:
        """Return which outputs are looked at (see `sampled`): pixels of every sample; for matrices (1, rows).

        used: of matrices, the rows to draw from, (rows,) bool; None: all.
        """
        unknowns = self.weight[0].numel()
        if self.options is None:
            rows = torch.arange(len(self.data))
            if used is not None and len(used) == len(rows):
                rows = rows[used]
            return rows[sampled(1, len(rows), unknowns, seed, LEAST_OF_MATRIX)]
        least = LEAST if self.groups == 1 else LEAST_OF_GROUPS
        return sampled(len(self.data), prod(self._output_size()), unknowns, seed, least)

    def output_rows(self, result: Tensor, places: Tensor) -> Tensor:
        """Return outputs of the call at the places: (rows, channels)."""
        places = places.to(result.device)
        if self.options is None:
            return result[places[0]]
        flat = result.flatten(2)
        index = places[:, None].expand(-1, flat.shape[1], -1)
        return flat.gather(2, index).transpose(1, 2).flatten(0, 1)

    def parts(self, places: Tensor) -> Iterator[tuple[Product, Tensor]]:
        """Yield the call on some samples at a time, with the places there: few enough that their rows take little memory."""
        each = self.weight[0].numel() * self.groups
        if self.options is None:
            for some in places.split(max(PART // each, 1), dim=1):
                yield self, some
            return
        step = max(PART // (each * max(places.shape[1], 1)), 1)
        for low in range(0, len(places), step):
            yield replace(self, data=self.data[low : low + step]), places[low : low + step]

    def input_rows(self, places: Tensor) -> Tensor:
        """Return the inputs of which those outputs are sums: (conv groups, rows, weights of a filter)."""
        index = places.to(self.data.device)
        if self.options is None:
            return self.data[index[0]][None]
        stride, padding, dilation = self._steps()
        values = functional.pad(self.data, [side for pad in reversed(padding) for side in (pad, pad)])
        kernel, size = self.weight.shape[2:], self._output_size()
        dims = len(size)
        where: list[Tensor] = []
        for d in reversed(range(dims)):
            along, index = index % size[d], index // size[d]
            offsets = torch.arange(kernel[d], device=values.device) * dilation[d]
            shape = [*along.shape, *(kernel[d] if other == d else 1 for other in range(dims))]
            where.append((along[..., None] * stride[d] + offsets).reshape(shape))
        sample = torch.arange(len(values), device=values.device).reshape(-1, *[1] * (dims + 1))
        taken = values.movedim(1, -1)[(sample, *reversed(where))]  # samples, places, *kernel, channels
        taken = taken.flatten(0, 1).flatten(1, -2)  # rows, taps, channels
        taken = taken.unflatten(2, (self.groups, -1))
        rows: Tensor = taken.permute(2, 0, 3, 1).flatten(2)  # groups, rows, channels and taps
        return rows

    def _steps(self) -> list[tuple[int, ...]]:
        """Return stride, padding and dilation along each axis; in the call one number may stand for all axes."""
        dims, options = self.weight.dim() - 2, self.options or ()
        return [tuple(option) * dims if len(option) == 1 else tuple(option) for option in options[:3]]

    def _output_size(self) -> list[int]:
        """Return height, width, ... of the output."""
        stride, padding, dilation = self._steps()
        sides = zip(self.data.shape[2:], padding, dilation, self.weight.shape[2:], stride, strict=True)
        return [
            (length + 2 * pad - step * (taps - 1) - 1) // jump + 1 for length, pad, step, taps, jump in sides
        ]


def grouped(rows: Tensor, groups: int) -> Tensor:
    """Return (rows, channels) as (conv groups, rows, channels of a group)."""
    return rows.reshape(len(rows), groups, -1).transpose(0, 1)
