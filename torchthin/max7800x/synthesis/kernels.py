"""Kernels and biases of each layer, with BatchNorm, constants and the fold of a strided first layer in them.

In an ai8x layer BatchNorm is followed by a division by 4: w' = w * gamma / (4 * sqrt(var + eps)), b' = (b - mean) * gamma /
(4 * sqrt(var + eps)) + beta / 4, as ai8x-training fuses it before quantisation-aware training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.graph.operators import CONVOLUTIONS, LAYER_PRODUCTS
from torchthin.max7800x.cost.layer import Layer, Size
from torchthin.max7800x.mapping import ChipMapping
from torchthin.max7800x.mapping.feature_map import Fold, Origin
from torchthin.max7800x.mapping.module_settings import Scopes
from torchthin.max7800x.synthesis.captured import Captured

BATCH_NORM_DIVISOR = 4.0
"""Of an ai8x layer, behind its BatchNorm."""


@dataclass(frozen=True)
class Kernels:
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


_ON_GRID = ("quantize_activation", "adjust_output_shift", "weight_bits")
SETTINGS = (
    "output_shift",
    "weight_bits",
    "bias_bits",
    "quantize_activation",
    "adjust_output_shift",
    "shift_quantile",
)
"""In the order in which ai8x-training writes them."""


def all_kernels(model: nn.Module, mapping: ChipMapping, captured: Captured) -> tuple[Kernels | None, ...]:
    """Return the numbers of every layer of `mapping`; None for layers without kernels.

    Raises:
        InputError: BatchNorm behind a layer in quantisation-aware mode, whose rounding it would change.
    """
    scopes = Scopes(model, 8)
    return tuple(
        None if origin.op is None else _kernels(layer, origin, scopes, captured)
        for layer, origin in zip(mapping.layers, mapping.origins, strict=True)
    )


def _kernels(layer: Layer, origin: Origin, scopes: Scopes, captured: Captured) -> Kernels:
    assert origin.op is not None
    module = scopes.layer(origin.op.source.module)
    found = _as_trained(module) if module is not None else _as_used(origin, captured)
    if origin.folds and found.quantised:
        raise InputError(
            f"{layer.name}: BatchNorm or a constant behind a layer in quantisation-aware mode; fuse it first, as "
            "ai8x-training does with fuse_bn_layers before it starts that mode."
        )
    for fold in origin.folds:
        found = _folded(found, layer, fold, captured.arguments[fold.op.index])
    stride = _folded_stride(layer, found.weight, captured.arguments[origin.op.index])
    if stride != (1, 1):
        padding = captured.arguments[origin.op.index]["padding"]
        found = replace(found, weight=_unstrided(found.weight, layer, stride, padding), fold=stride)
    if layer.bias and found.bias is None:
        found = replace(found, bias=torch.zeros(layer.out_channels, dtype=torch.float64))
    return found


def _as_trained(module: nn.Module) -> Kernels:
    """Return the weights that an ai8x layer trains, not the rounded ones that it computes with."""
    op: Any = module.op
    settings = {
        name: torch.as_tensor(getattr(module, name)).detach().cpu().reshape(-1).clone() for name in SETTINGS
        if hasattr(module, name)
    }  # fmt: skip
    bias = None if op.bias is None else op.bias.detach().cpu().double()
    return Kernels(op.weight.detach().cpu().double(), bias, settings)


def _as_used(origin: Origin, captured: Captured) -> Kernels:
    assert origin.op is not None
    given = captured.arguments[origin.op.index]
    _, weight, bias = LAYER_PRODUCTS[origin.op.name]
    kernels = given[weight].cpu().double()
    if origin.op.name not in CONVOLUTIONS:
        kernels = kernels.T
    found = given.get(bias or "")
    return Kernels(kernels, found.cpu().double() if isinstance(found, Tensor) else None)


def _folded(kernels: Kernels, layer: Layer, fold: Fold, given: Mapping[str, Any]) -> Kernels:
    """Return kernels that do the op behind them as well: y -> scale * y + shift."""
    scale, shift = _affine(fold, given, layer.out_channels)
    axis = 1 if layer.kind == "convtranspose2d" and not layer.depthwise else 0
    shape = [-1 if number == axis else 1 for number in range(kernels.weight.dim())]
    bias = shift if kernels.bias is None else kernels.bias * scale + shift
    return replace(kernels, weight=kernels.weight * scale.reshape(shape), bias=bias if layer.bias else None)


def _affine(fold: Fold, given: Mapping[str, Any], channels: int) -> tuple[Tensor, Tensor]:
    """Return scale and shift, each (channels,)."""
    zero, one = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
    name = fold.op.name.removeprefix("aten.").rstrip("_")
    if "norm" in name:
        eps = given.get("eps", given.get("epsilon", 1e-5))
        gain = torch.rsqrt(given["running_var"].cpu().double() + eps)
        if given.get("weight") is not None:
            gain = gain * given["weight"].cpu().double()
        shift = -given["running_mean"].cpu().double() * gain
        if given.get("bias") is not None:
            shift = shift + given["bias"].cpu().double()
        divisor = BATCH_NORM_DIVISOR if fold.inside else 1.0
        return gain / divisor, shift / divisor
    constant = torch.as_tensor(given["other" if fold.data == "self" else "self"]).cpu().double().reshape(-1)
    constant = constant.expand(channels)
    alpha = given.get("alpha", 1)
    if name == "mul":
        return constant, zero
    if name == "div":
        return 1 / constant, zero
    if name == "sub" and fold.data == "other":
        return -alpha * one, constant
    sign = -1 if name == "sub" else 1
    return one * (alpha if fold.data == "other" else 1), constant * sign * (
        alpha if fold.data == "self" else 1
    )


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
