"""The numbers that ADI's quantize.py makes of a layer's weights and biases, and a network's layers run on them, in whole numbers.

All are held as floats on the chip's grid (data in steps of 1/128). Sums are exact: a layer whose sums could need more digits
than float32 has is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchthin.max7800x.ai8x.quantization import in_bits, limited, rounded
from torchthin.max7800x.cost.layer import Layer, Size
from torchthin.max7800x.synthesis.simulation import Kernels, Style, run_layers
from torchthin.max7800x.synthesis.weights import LayerWeights, folded_input, input_fold

_CHIP = Style(limited=True, rounded=True)
_EXACT = 2.0**23
"""Whole numbers below it, and their halves, are exact in float32."""
_AT_ONCE = 16
"""Inputs that are computed together."""


@dataclass(frozen=True)
class ChipNumbers:
    """What a layer holds on the chip."""

    weight: Tensor
    """Whole numbers of the layer's bits, divided by their largest power of two."""
    bias: Tensor | None
    shift: int
    """The output shift: outputs are multiplied with 2 ** shift."""


def chip_numbers(layer: Layer, numbers: LayerWeights) -> ChipNumbers:
    """Return the weights as quantize.py rounds them, in float32 as it does.

    All weights and biases of a layer are scaled by one power of two, that makes the largest (or the layer's quantile) just fit.
    """
    settings = numbers.settings or {}
    bits = int(settings.get("weight_bits", 0)) or layer.weight_bits
    weight, bias = numbers.weight.float(), None if numbers.bias is None else numbers.bias.float()
    every = weight.flatten().abs() if bias is None else torch.cat((weight.flatten(), bias)).abs()
    quantile = float(settings.get("shift_quantile", 1.0))
    limit = every.max() if quantile == 1.0 else every.quantile(quantile)
    shift = -int((1.0 / limit).log2().floor().clamp(min=-7.0 - bits, max=23.0 - bits))
    return ChipNumbers(
        in_bits(weight * 2.0**-shift, bits),
        None if bias is None else in_bits(bias * 2.0**-shift, bits),
        shift,
    )


@dataclass(frozen=True)
class IntegerLayers:
    """The layers of a network with what the chip computes with."""

    layers: tuple[Layer, ...]
    kernels: tuple[Kernels | None, ...]
    fold: Size
    input_shape: tuple[int, ...]
    """Of one input, before it is folded."""

    @classmethod
    def of(
        cls, layers: Sequence[Layer], weights: Sequence[LayerWeights | None], input_shape: tuple[int, ...]
    ) -> IntegerLayers:
        """Take the weights as they are written."""
        kernels = (
            None if one is None else _kernels(layer, one) for layer, one in zip(layers, weights, strict=True)
        )
        return cls(tuple(layers), tuple(kernels), input_fold(weights), input_shape)

    def run(self, images: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        """Return what the wanted layers store, (N, C, H, W) each, in the model's units, for images (N, C, H, W) or (N, C, L).

        Outputs of 32 bits are in the units of the model: where it was not trained quantisation-aware, the host has to multiply
        with the layer's scale.
        """
        found: dict[int, list[Tensor]] = {number: [] for number in wanted}
        data = limited(rounded(images.float(), 8))
        nnpack = torch.backends.nnpack.flags(enabled=False)  # it transforms kernels, and rounds
        with torch.no_grad(), nnpack:
            for part in folded_input(data, self.fold).split(_AT_ONCE):
                values = run_layers(self.layers, self.kernels, _CHIP, part)
                for number in wanted:
                    found[number].append(values[number])
        return {number: torch.cat(parts) for number, parts in found.items()}

    def to(self, device: torch.device) -> IntegerLayers:
        """Return the same on a device; other devices than the CPU compute in float64."""
        exact = device.type == "cpu"
        return replace(self, kernels=tuple(one and _moved(one, device, exact) for one in self.kernels))


def _moved(kernels: Kernels, device: torch.device, exact: bool) -> Kernels:
    dtype = kernels.weight.dtype if exact else torch.float64
    bias = kernels.bias
    return replace(
        kernels,
        weight=kernels.weight.to(device, dtype),
        bias=None if bias is None else bias.to(device, dtype),
    )


def _kernels(layer: Layer, given: LayerWeights) -> Kernels:
    numbers = chip_numbers(layer, given)
    weight, bias = numbers.weight, numbers.bias
    bits = int((given.settings or {}).get("weight_bits", 0)) or layer.weight_bits
    axis = (1,) if layer.kind == "convtranspose2d" and not layer.depthwise else (0,)
    others = [number for number in range(weight.dim()) if number not in axis]
    most = weight.abs().double().sum(others)
    most = (most if bias is None else most + bias.abs().double()).max() * 2.0 ** (7 + bits - 1)
    dtype = torch.float32 if most < _EXACT else torch.float64
    return Kernels(
        weight.to(dtype),
        None if bias is None else bias.to(dtype),
        _CHIP,
        scale=2.0**numbers.shift,
        wide_scale=1.0 if given.quantised else 2.0**numbers.shift,
        rounds_first=True,
    )
