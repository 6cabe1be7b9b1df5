"""The layers of a chip, run one after the other on what is written for them: the proof that it computes what the model does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from torchthin.graph.output_shift import largest_value_shift
from torchthin.max7800x.ai8x.quantization import in_bits, limited, stored, truncated
from torchthin.max7800x.cost.layer import INPUT, Layer
from torchthin.max7800x.synthesis.weights import LayerWeights, folded_input, input_fold

_LEVELS = 128
"""Of the chip's grid, from 0 to 1."""


class _Style(NamedTuple):
    """How a network stores numbers between layers."""

    limited: bool
    """To what the chip can hold: in networks of ai8x layers."""
    rounded: bool
    """To the chip's grid: in quantisation-aware mode."""


def simulate(
    layers: Sequence[Layer], weights: Sequence[LayerWeights | None], images: Tensor
) -> tuple[Tensor, ...]:
    """Return what every layer stores, (N, C, H, W) each, in the dtype of `images` (N, C, H, W) or (N, C, L)."""
    known = [one for one in weights if one is not None]
    style = _Style(any(one.settings is not None for one in known), any(one.quantised for one in known))
    values = {INPUT: folded_input(images, input_fold(weights))}
    for number, (layer, numbers) in enumerate(zip(layers, weights, strict=True)):
        parts = [values[source].reshape(len(images), -1, *layer.in_size) for source in layer.sources]
        entering = _entering(layer, parts, style)
        values[number] = entering if numbers is None else _convolved(layer, numbers, entering)
    return tuple(values[number] for number in range(len(layers)))


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
    return truncated(value) if style.rounded else value


def _combined(layer: Layer, parts: list[Tensor], style: _Style) -> Tensor:
    result = parts[0]
    for part in parts[1:]:
        if layer.eltwise in ("xor", "or"):
            whole = [(one * _LEVELS).round().long() for one in (result, part)]
            bits = whole[0] ^ whole[1] if layer.eltwise == "xor" else whole[0] | whole[1]
            result = bits.to(part.dtype) / _LEVELS
        else:
            result = result + part if layer.eltwise == "add" else result - part
    return limited(result) if style.limited else result


def _convolved(layer: Layer, numbers: LayerWeights, value: Tensor) -> Tensor:
    weight, bias, scale = numbers.weight, numbers.bias, 1.0
    if numbers.quantised:
        weight, bias, scale = _on_grid(numbers)
    value = _operation(layer, value, weight, bias)
    value = value * scale if not layer.wide else value
    value = value.relu() if layer.activation == "relu" else value.abs() if layer.activation else value
    return value if numbers.settings is None else stored(value, wide=layer.wide, on_grid=numbers.quantised)


def _on_grid(numbers: LayerWeights) -> tuple[Tensor, Tensor | None, float]:
    """Return weights and biases of a layer in quantisation-aware mode as the chip has them, and the factor of its outputs."""
    settings: dict[str, Any] = {"shift_quantile": 1.0, **(numbers.settings or {})}
    flat = numbers.weight.flatten()
    flat = flat if numbers.bias is None else torch.cat((flat, numbers.bias))
    shift = float(largest_value_shift(flat, float(settings["shift_quantile"])))
    weight = in_bits(numbers.weight * 2.0**-shift, int(settings["weight_bits"]) or 8)
    bias = numbers.bias
    if bias is not None:
        bias = in_bits(bias * 2.0**-shift, int(settings["bias_bits"]) or 8)
    return weight, bias, 2.0**shift


def _operation(layer: Layer, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if layer.kind == "linear":
        return functional.linear(value.flatten(1), weight, bias)[:, :, None, None]
    geometry = layer.stride, layer.padding
    if layer.kind == "convtranspose2d":
        return functional.conv_transpose2d(value, weight, bias, *geometry, (1, 1), layer.conv_groups)
    weight = weight.unsqueeze(-1) if layer.kind == "conv1d" else weight
    return functional.conv2d(value, weight, bias, *geometry, layer.dilation, layer.conv_groups)
