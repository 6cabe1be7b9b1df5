"""What a chip cannot run of a layer, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.layer import INPUT, WEIGHT_BITS, Layer, Size, passes


def violations(layer: Layer, chip: ChipSpec) -> tuple[str, ...]:
    """Return what `chip` cannot run of `layer`, each as "name: what; what is allowed"; empty when it runs."""
    found = [f"{layer.name}: {text}" for check in _CHECKS for text in check(layer, chip)]
    return tuple(dict.fromkeys(found))


def network_violations(layers: Sequence[Layer], chip: ChipSpec) -> tuple[str, ...]:
    """Return what `chip` cannot run of a network, without regard to where its maps and kernels lie."""
    found = [text for layer in layers for text in violations(layer, chip)]
    step = chip.processors_per_memory
    for layer in layers:
        counts = ["input" if one == INPUT else layers[one].out_channels for one in layer.sources]
        known = {count for count in counts if isinstance(count, int)}
        # ADI's tool refuses other parts; each starts at a data memory of its own.
        if layer.concatenates and (len(known) > 1 or any(count % step for count in known)):
            parts = " + ".join(map(str, counts))
            found.append(
                f"{layer.name}: concatenates {parts} channels; the parts must be equal and multiples of {step}"
            )
        elif layer.concatenates and (count := passes(layer.in_channels, chip)[0]) not in (1, len(counts)):
            found.append(
                f"{layer.name}: concatenates {' + '.join(map(str, counts))} channels, which takes {count} passes; beyond "
                f"{chip.processors} channels there must be one part for each pass"
            )
    if len(layers) > chip.layers:
        found.append(f"{len(layers)} layers; {chip.name} runs at most {chip.layers}, remove or join layers")
    return tuple(found)


def _shape(size: Size) -> str:
    return "x".join(map(str, size))


def _channels(layer: Layer, chip: ChipSpec) -> Iterator[str]:
    for side, count in (("input", layer.in_channels), ("output", layer.out_channels)):
        if count > chip.channels:
            yield f"{count} {side} channels; {chip.name} has at most {chip.channels}"
    sizes = (layer.in_size, layer.pooled_size, layer.out_size)
    if min(map(min, sizes)) < 1:
        yield f"input {_shape(layer.in_size)} leaves nothing after pooling and kernel; give a larger input"
    for size in (layer.in_size, layer.out_size):
        if max(size) > chip.rows_columns:
            yield f"a feature map of {_shape(size)}; at most {chip.rows_columns} rows and columns"
    if layer.weight_bits not in WEIGHT_BITS:
        yield f"weights of {layer.weight_bits} bits; allowed are 1, 2, 4 and 8"
    if layer.bias and layer.has_weights and layer.out_channels > chip.bias_bytes:
        yield f"{layer.out_channels} outputs with a bias; at most {chip.bias_bytes}, train it without bias"
    if layer.wide and layer.activation is not None:
        yield "outputs of 32 bits with an activation; drop one of the two"


def _convolution(layer: Layer, chip: ChipSpec) -> Iterator[str]:
    if layer.kind not in ("conv2d", "convtranspose2d"):
        return
    transposed = layer.kind == "convtranspose2d"
    kernels = ((3, 3),) if transposed else ((1, 1), (3, 3))
    if layer.kernel not in kernels:
        yield f"kernel {_shape(layer.kernel)}; allowed is {' or '.join(map(_shape, kernels))}"
    stride = (2, 2) if transposed else (1, 1)
    if layer.stride != stride:
        cure = "" if transposed else ", pool before the layer instead"
        yield f"stride {_shape(layer.stride)}; it must be {stride[0]}{cure}"
    if layer.dilation != (1, 1):
        yield f"dilation {_shape(layer.dilation)}; it must be 1 in 2-d layers"
    if transposed and any(layer.kernel[i] - 1 - layer.padding[i] not in (0, 1, 2) for i in (0, 1)):
        yield f"padding {_shape(layer.padding)}; from 0 to 2 in a transposed convolution"
    elif not transposed and max(layer.padding) > 2:
        yield f"padding {_shape(layer.padding)}; at most 2"
    elif not transposed and any(p >= k for p, k in zip(layer.padding, layer.kernel, strict=True)):
        yield f"padding {_shape(layer.padding)} with kernel {_shape(layer.kernel)}; it must be smaller than the kernel"


def _conv_groups(layer: Layer, chip: ChipSpec) -> Iterator[str]:
    if layer.conv_groups == 1:
        return
    whole = layer.conv_groups == layer.in_channels == layer.out_channels
    if not chip.depthwise:
        yield f"{layer.conv_groups} conv groups; {chip.name} runs layers with one only"
    elif not whole:
        yield f"{layer.conv_groups} conv groups; 1, or as many as input and output channels"


def _sequence(layer: Layer, chip: ChipSpec) -> Iterator[str]:
    if layer.kind != "conv1d":
        return
    kernel, padding, gap = layer.kernel[0], layer.padding[0], layer.dilation[0]
    wide = layer.in_channels > chip.processors
    if kernel > chip.conv1d_kernel:
        yield f"kernel {kernel}; at most {chip.conv1d_kernel}"
    if layer.stride[0] != 1:
        yield f"stride {layer.stride[0]}; it must be 1, pool before the layer instead"
    if padding > 2 or padding >= kernel > 1:
        yield f"padding {padding}; at most 2 and smaller than the kernel"
    if gap > 1 and (kernel - 1) * gap >= 9 and (kernel not in (2, 3) or padding or layer.pools):
        yield f"dilation {gap} with kernel {kernel}; beyond nine taps it needs kernel 2 or 3, no padding and no pooling"
    if padding and wide and not chip.pads_wide_conv1d:
        yield f"padding with {layer.in_channels} inputs; none with more than {chip.processors}"
    if layer.operands > 1:
        yield "an element-wise operation before a 1-d convolution; make it a layer of its own"


def _linear(layer: Layer, chip: ChipSpec) -> Iterator[str]:
    if layer.kind != "linear":
        return
    pixels = prod(layer.pooled_size)
    if not layer.flatten:
        if pixels != 1:
            yield f"a linear layer on a feature map of {_shape(layer.pooled_size)}; flatten it first"
        elif max(layer.in_channels, layer.out_channels) > chip.linear_features:
            yield f"{layer.in_channels} to {layer.out_channels} features; at most {chip.linear_features}"
        return
    if pixels > chip.flatten_pixels:
        yield f"flattens {_shape(layer.in_size)}; at most {chip.flatten_pixels} pixels, pool first"
    if pixels * layer.in_channels > chip.flatten_features:
        yield f"flattens to {pixels * layer.in_channels} features; at most {chip.flatten_features}"
    count, each = passes(layer.in_channels, chip)
    if count * each != layer.in_channels:
        yield (
            f"flattens {layer.in_channels} channels; beyond {chip.processors} they must be a multiple of "
            f"{count * chip.processors_per_memory}"
        )
    if layer.pools:
        yield "pooling before a flattening layer; make it a layer of its own"


def _pooling(layer: Layer, chip: ChipSpec) -> Iterator[str]:
    if max(layer.pool) > chip.pool_size:
        yield f"pooling over {_shape(layer.pool)}; at most {chip.pool_size}x{chip.pool_size}"
    if max(layer.pool_stride) > chip.pool_stride or (len(set(layer.pool_stride)) > 1 and not layer.one_axis):
        yield f"pooling stride {_shape(layer.pool_stride)}; equal in both directions and at most {chip.pool_stride}"
    if max(layer.pool_dilation) > chip.pool_dilation:
        yield f"pooling dilation {_shape(layer.pool_dilation)}; at most {chip.pool_dilation}"
    alone = layer.kind == "passthrough" and layer.pools
    wide = layer.in_channels > chip.processors and layer.pooled_size != (1, 1)
    if alone and wide and not chip.pools_many_channels_alone:
        yield (
            f"pooling of {layer.in_channels} channels without a convolution after it; at most {chip.processors} unless "
            "one pixel is left"
        )


def _eltwise(layer: Layer, chip: ChipSpec) -> Iterator[str]:
    if layer.operands == 1:
        return
    if layer.operands > chip.operands:
        yield f"{layer.operands} operands; at most {chip.operands}"
    if not layer.pool_first and layer.pools and layer.operands > 2:
        yield f"pooling after {layer.operands} operands; at most 2"
    if not joins_eltwise(layer.operands, layer.in_channels, chip) and (layer.has_weights or layer.pools):
        yield (
            f"{layer.operands} operands of {layer.in_channels} channels with pooling or a convolution; with more than "
            f"{chip.processors} channels two operands of at most {2 * chip.processors}, or a layer of its own"
        )
    if layer.has_weights and layer.bias and not chip.bias_after_eltwise:
        yield "an element-wise operation and a convolution with a bias; make it a layer of its own"


def joins_eltwise(operands: int, channels: int, chip: ChipSpec) -> bool:
    """Whether an element-wise operation leaves room for pooling or a convolution in the same layer."""
    count = passes(channels, chip)[0]
    return not chip.reads_operands_as_passes or count == 1 or operands == count == 2


def _passthrough(layer: Layer, chip: ChipSpec) -> Iterator[str]:
    if layer.kind == "passthrough" and layer.activation is not None:
        yield f"{layer.activation} without a convolution; put it after one"
    if layer.kind == "passthrough" and layer.wide:
        yield "outputs of 32 bits without a convolution"


_CHECKS: tuple[Callable[[Layer, ChipSpec], Iterator[str]], ...] = (
    _channels,
    _convolution,
    _conv_groups,
    _sequence,
    _linear,
    _pooling,
    _eltwise,
    _passthrough,
)
