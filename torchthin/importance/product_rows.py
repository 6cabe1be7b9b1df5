"""Products as rows: which places of an output are looked at, what they should be, and the inputs they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LEAST = 4096
"""Rows that a fit takes at least, where there are as many."""
FOLD = 6
"""Rows for each unknown of a filter, at least."""
FLOATS = 2**26
"""Numbers that the rows of one layer hold at most."""


@dataclass(frozen=True)
class Places:
    """Places of an output, the same number for every sample."""

    index: Tensor
    """(samples, places): numbers of output pixels of a convolution; (1, rows): rows of a matrix product."""

    @classmethod
    def draw(cls, samples: int, size: int, unknowns: int, seed: int) -> Places:
        """Draw places at random: `size` there are for each of `samples`; a filter has `unknowns` weights."""
        wanted = min(max(LEAST, FOLD * unknowns), max(FLOATS // max(unknowns, 1), 1))
        count = min(max(-(-wanted // samples), 1), size)
        generator = torch.Generator().manual_seed(seed)
        if count == size:
            return cls(torch.arange(size).expand(samples, size))
        return cls(
            torch.rand(samples, size, generator=generator).topk(count, dim=1).indices.sort(dim=1).values
        )


@dataclass(frozen=True)
class Geometry:
    """How a convolution goes over its input."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, weight: Tensor, options: Sequence[Sequence[int]], groups: int) -> Geometry:
        """Read the arguments of ``aten.convolution``; one number stands for all axes."""
        dims = weight.dim() - 2
        stride, padding, dilation = (
            tuple(option) * dims if len(option) == 1 else tuple(option) for option in options
        )
        return cls(tuple(weight.shape[2:]), stride, padding, dilation, groups)

    def output_size(self, values: Tensor) -> list[int]:
        """Return height, width, ... of the output for an input (samples, channels, ...)."""
        sides = zip(values.shape[2:], self.padding, self.dilation, self.kernel, self.stride, strict=True)
        return [
            (length + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for length, pad, dilation, kernel, stride in sides
        ]


def pixel_outputs(output: Tensor, places: Places) -> Tensor:
    """Return the outputs of a convolution at the places: (samples * places, channels)."""
    flat = output.flatten(2)
    index = places.index.to(flat.device)[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2).flatten(0, 1)


def pixel_inputs(values: Tensor, places: Places, how: Geometry, size: Sequence[int]) -> Tensor:
    """Return the inputs that the outputs at the places are made of: (conv groups, samples * places, weights of a filter).

    size: height, width, ... of the output.
    """
    sides = [side for pad in reversed(how.padding) for side in (pad, pad)]
    padded = functional.pad(values, sides)
    dims = len(size)
    index = places.index.to(values.device)
    where: list[Tensor] = []
    for d in reversed(range(dims)):
        along, index = index % size[d], index // size[d]
        taps = (
            along[..., None] * how.stride[d]
            + torch.arange(how.kernel[d], device=values.device) * how.dilation[d]
        )
        shape = [*along.shape, *(how.kernel[d] if other == d else 1 for other in range(dims))]
        where.append(taps.reshape(shape))
    sample = torch.arange(len(values), device=values.device).reshape(-1, *[1] * (dims + 1))
    channels = padded.movedim(1, -1)
    taken = channels[(sample, *reversed(where))]  # samples, places, *kernel, channels
    taken = taken.movedim(-1, 2).flatten(0, 1)  # rows, channels, *kernel
    return taken.reshape(len(taken), how.groups, -1).transpose(0, 1)


def grouped(rows: Tensor, groups: int) -> Tensor:
    """Return (rows, channels) as (conv groups, rows, channels of a group)."""
    return rows.reshape(len(rows), groups, -1).transpose(0, 1)
