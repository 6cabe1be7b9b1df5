"""The layers of a chip, run one after the other on what is written for them: the proof that it computes what the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from torchthin.graph.output_shift import largest_value_shift
from torchthin.max7800x.ai8x.quantization import in_bits, limited, stored, truncated
from torchthin.max7800x.cost.layer import INPUT, Layer
from torchthin.max7800x.synthesis.weights import LayerWeights, folded_input, input_fold

_LEVELS = 128
"""Of the chip's grid, from 0 to 1."""


@dataclass(frozen=True)
class Style:
    """How a network stores numbers between layers."""

    limited: bool
    """To what the chip can hold: in networks of ai8x layers."""
    rounded: bool
    """To the chip's grid: in quantisation-aware mode."""


@dataclass(frozen=True)
class Kernels:
    """What a layer computes with, and how it stores what it computes."""

    weight: Tensor
    bias: Tensor | None
    style: Style
    scale: float = 1.0
    """Of the outputs, but of those of 32 bits."""
    wide_scale: float = 1.0
    """Of outputs of 32 bits: the chip leaves it to the host."""
    rounds_first: bool = False
    """Whether outputs are rounded before the activation, as the chip does, and not after it, as ai8x-training does."""


def simulate(
    layers: Sequence[Layer], weights: Sequence[LayerWeights | None], images: Tensor
) -> tuple[Tensor, ...]:
    """Return what every layer stores, (N, C, H, W) each, in the dtype of `images` (N, C, H, W) or (N, C, L)."""
    known = [one for one in weights if one is not None]
    style = Style(any(one.settings is not None for one in known), any(one.quantised for one in known))
    kernels = [None if one is None else _as_trained(one) for one in weights]
    return run_layers(layers, kernels, style, folded_input(images, input_fold(weights)))


def run_layers(
    layers: Sequence[Layer], kernels: Sequence[Kernels | None], style: Style, images: Tensor
) -> tuple[Tensor, ...]:
    """Return what every layer stores, given what the first one reads; `style` is that of layers without kernels."""
    values = {INPUT: images}
    for number, (layer, numbers) in enumerate(zip(layers, kernels, strict=True)):
        parts = [values[source].reshape(len(images), -1, *layer.in_size) for source in layer.sources]
        entering = _entering(layer, parts, style)
        values[number] = entering if numbers is None else _convolved(layer, numbers, entering)
    return tuple(values[number] for number in range(len(layers)))


def _entering(layer: Layer, parts: list[Tensor], style: Style) -> Tensor:
    """Pool, and combine or concatenate."""
    if layer.operands == 1:
        return _pooled(layer, torch.cat(parts, 1), style)
    if layer.pool_first:
        return _combined(layer, [_pooled(layer, part, style) for part in parts], style)
    return _pooled(layer, _combined(layer, parts, style), style)


def _pooled(layer: Layer, value: Tensor, style: Style) -> Tensor:
    if layer.pool == (1, 1) and layer.pool_stride == (1, 1):
        return value
    if layer.pool_mode == "max":
        return functional.max_pool2d(value, layer.pool, layer.pool_stride, dilation=layer.pool_dilation)
    value = functional.avg_pool2d(value, layer.pool, layer.pool_stride)
    return truncated(value) if style.rounded else value


def _combined(layer: Layer, parts: list[Tensor], style: Style) -> Tensor:
    result = parts[0]
    for part in parts[1:]:
        if layer.eltwise in ("xor", "or"):
            whole = [(one * _LEVELS).round().long() for one in (result, part)]
            bits = whole[0] ^ whole[1] if layer.eltwise == "xor" else whole[0] | whole[1]
            result = bits.to(part.dtype) / _LEVELS
        else:
            result = result + part if layer.eltwise == "add" else result - part
    return limited(result) if style.limited else result


def _convolved(layer: Layer, numbers: Kernels, entering: Tensor) -> Tensor:
    value = _operation(layer, entering.to(numbers.weight.dtype), numbers.weight, numbers.bias)
    if numbers.rounds_first:
        return _stored_(value, layer, numbers).to(entering.dtype)
    style = numbers.style
    value = value * numbers.scale if not layer.wide else value
    value = value.relu() if layer.activation == "relu" else value.abs() if layer.activation else value
    return stored(value, wide=layer.wide, on_grid=style.rounded) if style.limited else value


def _stored_(value: Tensor, layer: Layer, numbers: Kernels) -> Tensor:
    """Return sums as the chip stores them, in their own memory; of 32 bits they are exact."""
    if layer.wide:
        return value.mul_(numbers.wide_scale)
    value = value.mul_(numbers.scale * _LEVELS).add_(0.5).floor_()
    if layer.activation == "abs":
        value = value.clamp_(-_LEVELS, _LEVELS - 1).abs_()
    return value.clamp_(0 if layer.activation == "relu" else -_LEVELS, _LEVELS - 1).div_(_LEVELS)


def _as_trained(numbers: LayerWeights) -> Kernels:
    """Return weights and biases as the model computes with them, in quantisation-aware mode on the chip's grid."""
    style = Style(numbers.settings is not None, numbers.quantised)
    if not numbers.quantised:
        return Kernels(numbers.weight, numbers.bias, style)
    settings: dict[str, Any] = {"shift_quantile": 1.0, **(numbers.settings or {})}
    flat = numbers.weight.flatten()
    flat = flat if numbers.bias is None else torch.cat((flat, numbers.bias))
    shift = float(largest_value_shift(flat, float(settings["shift_quantile"])))
    weight = in_bits(numbers.weight * 2.0**-shift, int(settings["weight_bits"]) or 8)
    bias = numbers.bias
    if bias is not None:
        bias = in_bits(bias * 2.0**-shift, int(settings["bias_bits"]) or 8)
    return Kernels(weight, bias, style, 2.0**shift)


def _operation(layer: Layer, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if layer.kind == "linear":
        return functional.linear(value.flatten(1), weight, bias)[:, :, None, None]
    geometry = layer.stride, layer.padding
    if layer.kind == "convtranspose2d":
        return functional.conv_transpose2d(value, weight, bias, *geometry, (1, 1), layer.conv_groups)
    weight = weight.unsqueeze(-1) if layer.kind == "conv1d" else weight
    return functional.conv2d(value, weight, bias, *geometry, layer.dilation, layer.conv_groups)
