"""The small functions an ai8x layer sends its weights and activations through.

All numbers live on the chip's fixed-point grid seen as floats: activations and weights in
[-1, 1 - 2^-(bits-1)]. Float training leaves values as they are (`nn.Identity`), quantisation-aware training
rounds them (`Quantize`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ACTIVATION_BITS = 8
WIDE_BITS = 15
WIDE_LIMIT = 2.0**15
MAX_SHIFT = 15.0


class _OnGrid(torch.autograd.Function):
    """Round to multiples of 1/levels, half up or towards zero; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, levels: int, half_up: bool) -> torch.Tensor:
        scaled = values.mul(levels)
        return (scaled.add(0.5).floor() if half_up else scaled.trunc()).div(levels)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grads[0], None, None


class Quantize(nn.Module):
    """Round to a signed fixed-point grid of `bits` bits with one integer bit (steps of 2^-(bits-1))."""

    half_up = True

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels = 2 ** (bits - 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return `values` on the grid, any shape."""
        rounded: torch.Tensor = _OnGrid.apply(values, self.levels, self.half_up)  # type: ignore[no-untyped-call]
        return rounded


class Truncate(Quantize):
    """Round towards zero instead: what the chip's average pooling does."""

    half_up = False


class Clamp(nn.Module):
    """Limit values to [low, high]."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low = low
        self.high = high

    @classmethod
    def to_bits(cls, bits: int) -> Clamp:
        """Return the clamp to what `bits` bits can hold: [-1, 1 - 2^-(bits-1)]."""
        return cls(-1.0, 1.0 - 2.0 ** (1 - bits))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return `values` limited, any shape."""
        return values.clamp(min=self.low, max=self.high)


class FixedShift(nn.Module):
    """Use the stored output shift: float training, where it is 0."""

    def forward(self, parameters: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        """Return `stored`, shape (1,)."""
        return stored


class LargestValueShift(nn.Module):
    """Derive the output shift from the largest weight or bias of the whole layer.

    shift = -clamp(floor(log2(1 / limit)), -15, 15), where limit is the `quantile` of |weights and biases|
    (1.0: the maximum).
    """

    def __init__(self, quantile: float) -> None:
        super().__init__()
        self.quantile = quantile

    def forward(self, parameters: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        """Return the shift, shape () or (1,), from the flat `parameters`."""
        limit = sorted_quantile(parameters.abs().flatten().sort()[0], self.quantile)
        return -(1.0 / limit).log2().floor().clamp(min=-MAX_SHIFT, max=MAX_SHIFT)


def sorted_quantile(ordered: torch.Tensor, quantile: float) -> torch.Tensor:
    """Return the quantile of ascending `ordered` (n,), points placed at (i + 1/2) / n as in ai8x-training.

    Between the points at `below` and `below + 1` the value is extrapolated with the fraction
    quantile * (n - 1) - below, which is the rule the chip's training tool uses, not numpy's.
    """
    last = len(ordered) - 1
    if last == 0 or quantile == 1.0:
        return ordered[last]
    count = last + 1
    places = torch.linspace(1 / (2 * count), (2 * count - 1) / (2 * count), count, device=ordered.device)
    below = torch.searchsorted(places, quantile, side="right").clamp(1, last) - 1
    return ordered[below] + (quantile * last - below) * (ordered[below + 1] - ordered[below])


class UnitScale(nn.Module):
    """Weights are used as they are: float training."""

    def forward(self, shift: torch.Tensor) -> torch.Tensor:
        """Return 1, shape (1,)."""
        return torch.ones(1, device=shift.device)


class ShiftScale(nn.Module):
    """Scale of the outputs, 2^shift, or of the weights, 2^-shift, where `sign` is -1."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, shift: torch.Tensor) -> torch.Tensor:
        """Return the scale in the shape of `shift`."""
        return torch.exp2(shift if self.sign > 0 else -shift)


class Scaler(nn.Module):
    """Multiply by the output scale."""

    def forward(self, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return `values` times `scale`."""
        return values.mul(scale)
