"""The functions an ai8x layer sends its weights and activations through.

All numbers lie on the chip's fixed-point grid seen as floats: with `bits` bits in [-1, 1 - 2^-(bits-1)], in steps of 2^-(bits-1).
Gradients pass straight through the rounding.
"""

from __future__ import annotations

from typing import Any

import torch

ACTIVATION_BITS = 8
WIDE_BITS = 15
WIDE_LIMIT = 2.0**15


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, levels: int, half_up: bool) -> torch.Tensor:
        scaled = values.mul(levels)
        if half_up:
            return scaled.add(0.5).floor().div(levels)
        return torch.where(scaled > 0, scaled.floor(), scaled.ceil()).div(
            levels
        )  # as ai8x-training truncates

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grads[0], None, None


def rounded(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Return `values` on the grid, the nearest point, half up."""
    found: torch.Tensor = _OnGrid.apply(values, 2 ** (bits - 1), True)  # type: ignore[no-untyped-call]
    return found


def truncated(values: torch.Tensor) -> torch.Tensor:
    """Return `values` on the activation grid, rounded towards zero: what the chip's average pooling does."""
    found: torch.Tensor = _OnGrid.apply(values, 2 ** (ACTIVATION_BITS - 1), False)  # type: ignore[no-untyped-call]
    return found


def limited(values: torch.Tensor, bits: int = ACTIVATION_BITS) -> torch.Tensor:
    """Return `values` limited to what `bits` bits can hold."""
    return values.clamp(min=-1.0, max=1.0 - 2.0 ** (1 - bits))


def in_bits(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Return weights or biases as the chip has them; 0 bits: as they are."""
    return limited(rounded(values, bits), bits) if bits else values


def stored(values: torch.Tensor, *, wide: bool, on_grid: bool) -> torch.Tensor:
    """Return outputs as a layer stores them, in 8 bits or, where they are `wide`, in 32."""
    if on_grid:
        values = rounded(values, WIDE_BITS if wide else ACTIVATION_BITS)
    return values.clamp(min=-WIDE_LIMIT, max=WIDE_LIMIT) if wide else limited(values)
