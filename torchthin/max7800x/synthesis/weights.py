"""Weights and biases of each layer, with BatchNorm, constants and the fold of a strided first layer in them, and the checkpoint.

In an ai8x layer BatchNorm is followed by a division by 4: w' = w * gamma / (4 * sqrt(var + eps)), b' = (b - mean) * gamma /
(4 * sqrt(var + eps)) + beta / 4, as ai8x-training fuses it before quantisation-aware training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.graph.operators import CONVOLUTIONS, LAYER_PRODUCTS
from torchthin.max7800x.ai8x.settings import SETTINGS, ModuleSettings
from torchthin.max7800x.cost.layer import Layer, Size
from torchthin.max7800x.mapping import ChipMapping
from torchthin.max7800x.mapping.feature_map import Absorbed, Origin
from torchthin.max7800x.synthesis.capture import Captured

BATCH_NORM_DIVISOR = 4.0
"""Of an ai8x layer, after its BatchNorm."""
_ON_GRID = ("quantize_activation", "adjust_output_shift", "weight_bits")
_FLOAT_TRAINING = {
    "output_shift": torch.zeros(1),
    "weight_bits": torch.zeros(1, dtype=torch.int64),  # 0 means 8
    "bias_bits": torch.zeros(1, dtype=torch.int64),
    "quantize_activation": torch.zeros(1, dtype=torch.bool),
    "adjust_output_shift": torch.zeros(1, dtype=torch.bool),
    "shift_quantile": torch.ones(1),
}
"""The settings that plain layers get."""


@dataclass(frozen=True)
class LayerWeights:
    """The numbers of one layer, in float64."""

    weight: Tensor
    """(out, in, rows, columns), 1-d (out, in, taps), linear (out, in); transposed convolutions (in, out, rows, columns)."""
    bias: Tensor | None
    """(out,)"""
    settings: Mapping[str, Tensor] | None = None
    """The six settings of an ai8x layer, each (1,); None for plain layers."""
    fold: Size = (1, 1)
    """Into how many rows and columns of channels the input is folded."""

    @property
    def quantised(self) -> bool:
        """Whether the layer rounds its weights and activations as the chip does."""
        found = self.settings or {}
        return any(bool(found[name].any()) for name in _ON_GRID if name in found)

    def as_written(self) -> LayerWeights:
        """Return the numbers that a float32 file holds."""
        bias = None if self.bias is None else self.bias.float().double()
        return replace(self, weight=self.weight.float().double(), bias=bias)


def input_fold(weights: Sequence[LayerWeights | None]) -> Size:
    """Return how the network's input is folded; (1, 1): not at all."""
    return next((one.fold for one in weights if one is not None and one.fold != (1, 1)), (1, 1))


def all_weights(
    model: nn.Module, mapping: ChipMapping, captured: Captured
) -> tuple[LayerWeights | None, ...]:
    """Return the numbers of every layer of `mapping`; None for layers without kernels.

    Raises:
        InputError: BatchNorm after a layer in quantisation-aware mode, whose rounding it would change.
    """
    settings = ModuleSettings(model)
    return tuple(
        None if origin.op is None else _weights(layer, origin, settings, captured)
        for layer, origin in zip(mapping.layers, mapping.origins, strict=True)
    )


def _weights(layer: Layer, origin: Origin, settings: ModuleSettings, captured: Captured) -> LayerWeights:
    assert origin.op is not None
    given = captured.arguments[origin.op.index]
    module = settings.layer(origin.op.source.module)
    found = _as_trained(module) if module is not None else _as_used(origin.op.name, given)
    if origin.absorbed and found.quantised:
        raise InputError(
            f"{layer.name}: BatchNorm or a constant after a layer in quantisation-aware mode; fuse it first, as "
            "ai8x-training does with fuse_bn_layers before it starts that mode."
        )
    for absorbed in origin.absorbed:
        found = _with_absorbed(found, layer, absorbed, captured.arguments[absorbed.op.index])
    stride = _folded_stride(layer, found.weight, given)
    if stride != (1, 1):
        found = replace(found, weight=_unstrided(found.weight, layer, stride, given["padding"]), fold=stride)
    if layer.bias and found.bias is None:
        found = replace(found, bias=torch.zeros(layer.out_channels, dtype=torch.float64))
    return found


def _as_trained(module: nn.Module) -> LayerWeights:
    """Return the weights that an ai8x layer trains, not the rounded ones that it computes with."""
    op: Any = module.op
    settings = {
        name: torch.as_tensor(getattr(module, name)).detach().cpu().reshape(-1).clone()
        for name in SETTINGS
        if hasattr(module, name)
    }
    return LayerWeights(_double(op.weight), None if op.bias is None else _double(op.bias), settings)


def _as_used(op: str, given: Mapping[str, Any]) -> LayerWeights:
    _, weight, bias = LAYER_PRODUCTS[op]
    kernels, found = _double(given[weight]), given.get(bias or "")
    return LayerWeights(
        kernels if op in CONVOLUTIONS else kernels.T,
        _double(found) if isinstance(found, Tensor) else None,
    )


def _double(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().cpu().double()


def _with_absorbed(
    weights: LayerWeights, layer: Layer, absorbed: Absorbed, given: Mapping[str, Any]
) -> LayerWeights:
    """Return weights that do the op after them as well: y -> scale * y + shift."""
    scale, shift = _affine(absorbed, given, layer.out_channels)
    axis = 1 if layer.kind == "convtranspose2d" and not layer.depthwise else 0
    shape = [-1 if number == axis else 1 for number in range(weights.weight.dim())]
    bias = shift if weights.bias is None else weights.bias * scale + shift
    return replace(weights, weight=weights.weight * scale.reshape(shape), bias=bias if layer.bias else None)


def _affine(absorbed: Absorbed, given: Mapping[str, Any], channels: int) -> tuple[Tensor, Tensor]:
    """Return scale and shift, each (channels,)."""
    zero, one = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
    name = absorbed.op.name.removeprefix("aten.").rstrip("_")
    if "norm" in name:
        gain = torch.rsqrt(_double(given["running_var"]) + given.get("eps", given.get("epsilon", 1e-5)))
        if given.get("weight") is not None:
            gain = gain * _double(given["weight"])
        shift = -_double(given["running_mean"]) * gain
        if given.get("bias") is not None:
            shift = shift + _double(given["bias"])
        divisor = BATCH_NORM_DIVISOR if absorbed.inside else 1.0
        return gain / divisor, shift / divisor
    first = absorbed.data == "self"
    constant = _double(given["other" if first else "self"]).reshape(-1)
    alpha = given.get("alpha", 1)  # of the second operand
    if name == "mul":
        return constant, zero
    if name == "div":
        return 1 / constant, zero
    if name == "sub" and not first:
        return -alpha * one, constant
    sign = -1 if name == "sub" else 1
    return (one, constant * sign * alpha) if first else (one * alpha, constant * sign)


def _folded_stride(layer: Layer, weight: Tensor, given: Mapping[str, Any]) -> Size:
    """Return the stride that a fold of the input does; (1, 1): none."""
    if layer.kind not in ("conv2d", "conv1d") or weight.shape[1] * layer.conv_groups == layer.in_channels:
        return (1, 1)
    rows, columns = (*given["stride"], 1)[:2]
    return int(rows), int(columns)


def _unstrided(weight: Tensor, layer: Layer, stride: Size, padding: Any) -> Tensor:
    """Return the kernels on the folded input, (out, stride rows * stride columns * in, taps...).

    Tap t of an axis reads pixel t - padding; that is pixel (t - padding) mod stride of folded pixel (t - padding) div stride.
    """
    flat = weight.dim() == 3
    weight = weight.unsqueeze(-1) if flat else weight
    out, channels, rows, columns = weight.shape
    pads = (*padding, 0)[:2]
    folded = weight.new_zeros(out, *stride, channels, *layer.kernel)
    for row in range(rows):
        for column in range(columns):
            down, inner_row = divmod(row - pads[0], stride[0])
            right, inner_column = divmod(column - pads[1], stride[1])
            place = (down + layer.padding[0], right + layer.padding[1])
            folded[:, inner_row, inner_column, :, place[0], place[1]] = weight[:, :, row, column]
    folded = folded.reshape(out, stride[0] * stride[1] * channels, *layer.kernel)
    return folded.squeeze(-1) if flat else folded


def folded_input(images: Tensor, fold: Size) -> Tensor:
    """Return images (N, C, H, W) or (N, C, L) with pixels as channels, in the order of ai8x-training's `fold`.

    Channel (row * fold columns + column) * C + c of the result holds the pixels (row::fold rows, column::fold columns) of c.
    """
    if fold == (1, 1):
        return images
    if images.dim() == 3:
        return torch.cat([images[:, :, row :: fold[0]] for row in range(fold[0])], 1)
    parts = [
        images[:, :, row :: fold[0], column :: fold[1]] for row in range(fold[0]) for column in range(fold[1])
    ]
    return torch.cat(parts, 1)


def state_dict(layers: Sequence[Layer], weights: Sequence[LayerWeights | None]) -> dict[str, Tensor]:
    """Return the state dict that ADI's quantize.py and ai8xize.py read.

    The six settings of each layer, then float32 ``<layer>.op.weight`` and ``<layer>.op.bias``, in the order of the layers: the
    tools count weights, and never compare names. <layer> is the module path, with a number where it is called again.
    """
    found: dict[str, Tensor] = {}
    for layer, numbers in zip(layers, weights, strict=True):
        if numbers is None:
            continue
        name = layer.name.replace("#", "_")
        settings = {**_FLOAT_TRAINING, **(numbers.settings or {})}
        if layer.weight_bits != 8 and not int(settings["weight_bits"]):
            settings["weight_bits"] = torch.tensor([layer.weight_bits])
        found.update({f"{name}.{setting}": settings[setting].clone() for setting in SETTINGS})
        found[f"{name}.op.weight"] = numbers.weight.float().contiguous()
        if numbers.bias is not None:
            found[f"{name}.op.bias"] = numbers.bias.float().contiguous()
    return found
