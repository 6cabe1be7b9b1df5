"""Operators that become a layer with kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torchthin.graph.operators import BATCHED_PRODUCTS, LAYER_PRODUCTS
from torchthin.max7800x.cost.layer import INPUT, Kind, Layer, Size
from torchthin.max7800x.cost.limits import joins_eltwise
from torchthin.max7800x.mapping.feature_map import Features, Pool
from torchthin.max7800x.mapping.layer_builder import Unmappable, pooled_layer
from torchthin.max7800x.mapping.registry import Call, maps
from torchthin.max7800x.mapping.strided_input import folded_kernel

_KERNELS_2D = (1, 3)


@maps("aten.convolution", contraction=True)
def convolution(call: Call) -> Features:
    """1-d, 2-d and transposed convolutions."""
    if call.is_map("weight"):
        raise Unmappable("its kernels are computed from the input")
    features = call.features(call.argument("input"))
    shape = call.shape(call.argument("weight"))
    transposed = bool(call.argument("transposed"))
    if len(shape) not in (3, 4) or (transposed and len(shape) == 3):
        raise Unmappable("the chip has Conv1d, Conv2d and ConvTranspose2d")
    sequence = len(shape) == 3
    if transposed and set(call.argument("output_padding")) != {1}:
        raise Unmappable("output_padding must be 1")
    groups = int(call.argument("groups", 1))
    out_channels = shape[1] * groups if transposed else shape[0]
    kind: Kind = "conv1d" if sequence else "convtranspose2d" if transposed else "conv2d"
    features = _ready(call, _oriented(call, features), eltwise=not sequence)
    layer = _layer(call, features, kind, out_channels)
    layer = replace(
        layer,
        kernel=_pair(shape[2:]),
        stride=_pair(call.argument("stride")),
        padding=_pair(call.argument("padding"), fill=0),
        dilation=_pair(call.argument("dilation")),
        conv_groups=groups,
    )
    return _added(call, layer if transposed else _without_stride(call, layer))


@maps("aten.addmm", "aten.mm", contraction=True)
def linear(call: Call) -> Features:
    """Linear layers on one pixel, or over all pixels of a feature map."""
    data, weight, _ = LAYER_PRODUCTS[call.op.name]
    if not call.is_map(data) or call.is_map(weight):
        raise Unmappable("a product of two feature maps")
    features = call.features(call.argument(data))
    if features.flat:
        features = call.draft.settle(features)
    features = _ready(call, features, eltwise=True)
    layer = _layer(call, features, "linear", call.out_shape[-1])
    if features.flat:
        return _added(call, replace(layer, flatten=True))
    return _added(call, layer)


@maps(*BATCHED_PRODUCTS, contraction=True)
def product(call: Call) -> Features:
    """Products of feature maps, as in attention."""
    raise Unmappable("a product of two feature maps")


def _oriented(call: Call, features: Features) -> Features:
    """Return features with rows and columns as the convolution sees them: views may have turned a sequence into a row."""
    shape = call.shape(call.argument("input"))
    size = _pair(shape[2:])
    if features.pooled == size:
        return features
    return replace(call.draft.settle(features), size=size, sequence=len(shape) == 3)


def _ready(call: Call, features: Features, *, eltwise: bool) -> Features:
    """Return features whose pending work the layer can do on the way in; the rest becomes a layer of its own."""
    joins = call.chip.biases_behind_eltwise and joins_eltwise(features.operands, features.channels, call.chip)
    apart = features.eltwise is not None and not (eltwise and joins)
    late = features.shared or features.negated or apart
    return call.draft.settle(features) if late else features


def _layer(call: Call, features: Features, kind: Kind, out_channels: int) -> Layer:
    call.draft.take(features)
    bias = LAYER_PRODUCTS[call.op.name].bias
    return pooled_layer(
        Layer(
            name=call.path,
            kind=kind,
            in_channels=features.channels,
            out_channels=out_channels,
            in_size=features.size,
            bias=bias is not None and call.argument(bias) is not None,
            weight_bits=call.scopes.weight_bits(call.op.source.module),
            wide=call.scopes.wide(call.op.source.module),
            eltwise=features.eltwise,
            operands=features.operands,
            sources=features.sources,
        ),
        features.pool,
    )


def _added(call: Call, layer: Layer) -> Features:
    weight = call.argument(LAYER_PRODUCTS[call.op.name].weight)
    return call.draft.add(layer, call.parameters.get(weight.value), call.op)


def _pair(numbers: Any, fill: int = 1) -> Size:
    """Return (rows, columns) of one or two numbers."""
    rows, columns = (*numbers, fill)[:2]
    return int(rows), int(columns)


def _without_stride(call: Call, layer: Layer) -> Layer:
    """Return a strided convolution in a form without stride, where one computes exactly the same."""
    if layer.stride == (1, 1):
        return layer
    unpooled = not layer.pools and layer.pool_stride == (1, 1)
    if layer.sources == (INPUT,) and unpooled:
        return _folded(call, layer)
    if layer.kernel == (1, 1) and layer.padding == (0, 0) and unpooled:
        # A 1x1 kernel with a stride looks at every n-th pixel: pooling over one pixel does that.
        pool = Pool("max", (1, 1), layer.stride, (1, 1), True, layer.name)
        return replace(pooled_layer(layer, pool), stride=(1, 1))
    return layer


def _folded(call: Call, layer: Layer) -> Layer:
    sequence = layer.kind == "conv1d"
    allowed = range(1, call.chip.conv1d_kernel + 1) if sequence else _KERNELS_2D
    axes = [0] if sequence else [0, 1]
    found = [
        folded_kernel(layer.in_size[i], layer.kernel[i], layer.stride[i], layer.padding[i], allowed)
        for i in axes
    ]
    if layer.conv_groups > 1 or layer.dilation != (1, 1) or None in found or len(set(found)) > 1:
        return layer
    (taps, padding), factor = found[0] or (1, 0), layer.stride
    area = factor[0] * (1 if sequence else factor[1])
    folded = replace(
        layer,
        in_channels=layer.in_channels * area,
        in_size=(
            layer.in_size[0] // factor[0],
            layer.in_size[1] if sequence else layer.in_size[1] // factor[1],
        ),
        kernel=(taps, 1 if sequence else taps),
        padding=(padding, 0 if sequence else padding),
        stride=(1, 1),
    )
    call.draft.notes.append(
        f"{layer.name}: its stride of {factor[0]} is done by folding the input, {layer.in_channels} channels of "
        f"{layer.in_size[0]}x{layer.in_size[1]} become {folded.in_channels} of {folded.in_size[0]}x{folded.in_size[1]}; exact"
    )
    return folded
