"""Operators that become a layer with kernels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torchthin.graph.operators import BATCHED_PRODUCTS, LAYER_PRODUCTS
from torchthin.graph.provenance import made_from
from torchthin.max7800x.cost.layer import INPUT, Kind, Layer, Size
from torchthin.max7800x.cost.limits import joins_eltwise
from torchthin.max7800x.mapping.feature_map import FeatureMap, Origin, Pool
from torchthin.max7800x.mapping.layer_builder import Unmappable, pooled_layer
from torchthin.max7800x.mapping.registry import Call, maps

_KERNELS_2D = (1, 3)


@maps("aten.convolution", contraction=True)
def convolution(call: Call) -> FeatureMap:
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
def linear(call: Call) -> FeatureMap:
    """Linear layers on one pixel, or over all pixels of a feature map."""
    data, weight, _ = LAYER_PRODUCTS[call.op.name]
    if not call.is_map(data) or call.is_map(weight):
        raise Unmappable("a product of two feature maps")
    features = call.features(call.argument(data))
    if features.flat:
        features = call.builder.materialize(features)
    features = _ready(call, features, eltwise=True)
    layer = _layer(call, features, "linear", call.out_shape[-1])
    return _added(call, replace(layer, flatten=features.flat))


@maps(*BATCHED_PRODUCTS, contraction=True)
def product(call: Call) -> FeatureMap:
    """Products of feature maps, as in attention."""
    raise Unmappable("a product of two feature maps")


def _oriented(call: Call, features: FeatureMap) -> FeatureMap:
    """Return features with rows and columns as the convolution sees them: views may have turned a sequence into a row."""
    shape = call.shape(call.argument("input"))
    size = _pair(shape[2:])
    if features.pooled == size:
        return features
    return replace(call.builder.materialize(features), size=size, sequence=len(shape) == 3)


def _ready(call: Call, features: FeatureMap, *, eltwise: bool) -> FeatureMap:
    """Return features whose pending work the layer can do on the way in; the rest becomes a layer of its own."""
    joins = call.chip.bias_after_eltwise and joins_eltwise(features.operands, features.channels, call.chip)
    apart = features.eltwise is not None and not (eltwise and joins)
    late = features.shared or features.negated or apart
    return call.builder.materialize(features) if late else features


def _layer(call: Call, features: FeatureMap, kind: Kind, out_channels: int) -> Layer:
    call.builder.read(features)
    bias = LAYER_PRODUCTS[call.op.name].bias
    return pooled_layer(
        Layer(
            name=call.path,
            kind=kind,
            in_channels=features.channels,
            out_channels=out_channels,
            in_size=features.size,
            bias=bias is not None and call.argument(bias) is not None,
            weight_bits=call.settings.weight_bits(call.module),
            wide=call.settings.wide(call.module),
            eltwise=features.eltwise,
            operands=features.operands,
            sources=features.sources,
        ),
        features.pool,
    )


def _added(call: Call, layer: Layer) -> FeatureMap:
    weight = call.argument(LAYER_PRODUCTS[call.op.name].weight)
    parameter = made_from(call.graph, weight.value, call.graph.state)
    return call.builder.add(layer, Origin(parameter, call.op))


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
    """Return a strided convolution on the network's input as one without stride, on the input folded into more channels."""
    sequence = layer.kind == "conv1d"
    allowed = range(1, call.chip.conv1d_kernel + 1) if sequence else _KERNELS_2D
    found = {
        folded_kernel(layer.in_size[i], layer.kernel[i], layer.stride[i], layer.padding[i], allowed)
        for i in ([0] if sequence else [0, 1])
    }
    kernel = found.pop()
    if layer.conv_groups > 1 or layer.dilation != (1, 1) or kernel is None or found:
        return layer
    (taps, padding), (down, across) = kernel, layer.stride
    across = 1 if sequence else across
    folded = replace(
        layer,
        in_channels=layer.in_channels * down * across,
        in_size=(layer.in_size[0] // down, layer.in_size[1] // across),
        kernel=(taps, 1 if sequence else taps),
        padding=(padding, 0 if sequence else padding),
        stride=(1, 1),
    )
    call.builder.notes.append(
        f"{layer.name}: its stride of {down} is done by folding the input, {layer.in_channels} channels of "
        f"{layer.in_size[0]}x{layer.in_size[1]} become {folded.in_channels} of {folded.in_size[0]}x{folded.in_size[1]}; exact"
    )
    return folded


def folded_kernel(
    size: int, kernel: int, stride: int, padding: int, allowed: Iterable[int]
) -> tuple[int, int] | None:
    """Return kernel and padding along one axis of the folded input, or None when no allowed kernel does it.

    Folding by s turns s x s pixels into s*s channels. Output o of a convolution with stride s, kernel k and padding p reads the
    pixels s*o - p .. s*o - p + k - 1, which lie in the folded pixels o + floor(-p / s) .. o + floor((k - 1 - p) / s): a kernel
    without stride that covers these, with zeros for the rest, computes exactly the same.

    Args:
        size: pixels along the axis, before folding.
        kernel: of the convolution.
        stride: of the convolution.
        padding: of the convolution, on both sides.
        allowed: kernel sizes of the chip.

    >>> folded_kernel(128, 3, 2, 1, (1, 3)), folded_kernel(128, 4, 4, 0, (1, 3)), folded_kernel(128, 7, 2, 3, (1, 3))
    ((3, 1), (1, 0), None)
    """
    if size % stride:
        return None
    first, last = -padding // stride, (kernel - 1 - padding) // stride
    outputs = (size + 2 * padding - kernel) // stride + 1
    for taps in sorted(allowed):
        for pad in range(min(taps, 3)):
            if -pad <= first and last <= taps - 1 - pad and size // stride + 2 * pad - taps + 1 == outputs:
                return taps, pad
    return None
