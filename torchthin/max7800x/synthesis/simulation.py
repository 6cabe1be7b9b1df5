"""The layers of a chip, run one after the other on what is written for them: the proof that it computes what the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from torchthin.max7800x.ai8x.quantization import (
    ACTIVATION_BITS,
    WIDE_BITS,
    WIDE_LIMIT,
    Clamp,
    LargestValueShift,
    Quantize,
    TruncateToGrid,
)
from torchthin.max7800x.cost.layer import INPUT, Layer
from torchthin.max7800x.synthesis.kernels import Kernels, folded_input

_LEVELS = 2 ** (ACTIVATION_BITS - 1)


@dataclass(frozen=True)
class _Style:
    """How a network stores numbers between layers."""

    limited: bool
    """To what the chip can hold: in networks of ai8x layers."""
    rounded: bool
    """To the chip's grid: in quantisation-aware mode."""


def simulate(
    layers: Sequence[Layer], kernels: Sequence[Kernels | None], images: Tensor
) -> tuple[Tensor, ...]:
    """Return what every layer stores, (N, C, H, W) each, in the dtype of `images` (N, C, H, W) or (N, C, L)."""
    fold = next((one.fold for one in kernels if one is not None and one.fold != (1, 1)), (1, 1))
    known = [one for one in kernels if one is not None]
    style = _Style(any(one.settings is not None for one in known), any(one.quantised for one in known))
    values = {INPUT: folded_input(images, fold)}
    for number, (layer, numbers) in enumerate(zip(layers, kernels, strict=True)):
        parts = [_shaped(values[source], layer) for source in layer.sources]
        entering = _entering(layer, parts, style)
        values[number] = entering if numbers is None else _convolved(layer, numbers, entering)
    return tuple(values[number] for number in range(len(layers)))


def _shaped(value: Tensor, layer: Layer) -> Tensor:
    return value.reshape(len(value), -1, *layer.in_size)


def _entering(layer: Layer, parts: list[Tensor], style: _Style) -> Tensor:
    """Pool, and combine or concatenate."""
    if layer.operands == 1:
        return _pooled(layer, torch.cat(parts, 1), style)
    if layer.pool_first:
        return _combined(layer, [_pooled(layer, part, style) for part in parts], style)
    return _pooled(layer, _combined(layer, parts, style), style)


def _pooled(layer: Layer, value: Tensor, style: _Style) -> Tensor:
    if layer.pool == (1, 1) and layer.pool_stride == (1, 1):
        return value
    if layer.pool_mode == "max":
        return functional.max_pool2d(value, layer.pool, layer.pool_stride, dilation=layer.pool_dilation)
    value = functional.avg_pool2d(value, layer.pool, layer.pool_stride)
    truncated: Tensor = TruncateToGrid()(value) if style.rounded else value
    return truncated


def _combined(layer: Layer, parts: list[Tensor], style: _Style) -> Tensor:
    result = parts[0]
    for part in parts[1:]:
        if layer.eltwise in ("xor", "or"):
            whole = [(one * _LEVELS).round().long() for one in (result, part)]
            bits = whole[0] ^ whole[1] if layer.eltwise == "xor" else whole[0] | whole[1]
            result = bits.to(part.dtype) / _LEVELS
        else:
            result = result + part if layer.eltwise == "add" else result - part
    limited: Tensor = Clamp.to_bits(ACTIVATION_BITS)(result) if style.limited else result
    return limited


def _convolved(layer: Layer, numbers: Kernels, value: Tensor) -> Tensor:
    weight, bias, scale = numbers.weight, numbers.bias, 1.0
    if numbers.quantised:
        weight, bias, scale = _on_grid(numbers)
    value = _operation(layer, value, weight, bias)
    value = value * scale if not layer.wide else value
    value = value.relu() if layer.activation == "relu" else value.abs() if layer.activation else value
    if numbers.settings is None:
        return value
    if numbers.quantised:
        value = Quantize(WIDE_BITS if layer.wide else ACTIVATION_BITS)(value)
    limits = Clamp(-WIDE_LIMIT, WIDE_LIMIT) if layer.wide else Clamp.to_bits(ACTIVATION_BITS)
    limited: Tensor = limits(value)
    return limited


def _on_grid(numbers: Kernels) -> tuple[Tensor, Tensor | None, float]:
    """Return weights and biases of a layer in quantisation-aware mode as the chip has them, and the factor behind them."""
    settings = numbers.settings or {}
    flat = numbers.weight.flatten()
    flat = flat if numbers.bias is None else torch.cat((flat, numbers.bias))
    quantile = float(settings["shift_quantile"]) if "shift_quantile" in settings else 1.0
    shift = float(LargestValueShift(quantile)(flat, flat[:1]))
    weight_bits, bias_bits = int(settings["weight_bits"]) or 8, int(settings["bias_bits"]) or 8
    weight = _rounded(numbers.weight * 2.0**-shift, weight_bits)
    bias = None if numbers.bias is None else _rounded(numbers.bias * 2.0**-shift, bias_bits)
    return weight, bias, 2.0**shift


def _rounded(values: Tensor, bits: int) -> Tensor:
    rounded: Tensor = Clamp.to_bits(bits)(Quantize(bits)(values))
    return rounded


def _operation(layer: Layer, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if layer.kind == "linear":
        return functional.linear(value.flatten(1), weight, bias)[:, :, None, None]
    if layer.kind == "convtranspose2d":
        return functional.conv_transpose2d(
            value, weight, bias, layer.stride, layer.padding, (1, 1), layer.conv_groups
        )
    weight = weight.unsqueeze(-1) if layer.kind == "conv1d" else weight
    return functional.conv2d(
        value, weight, bias, layer.stride, layer.padding, layer.dilation, layer.conv_groups
    )
