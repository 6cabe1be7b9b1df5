"""Pooling: waits for the convolution after it."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from torchthin.graph.operators import ADAPTIVE_POOLS_2D, AVERAGE_POOLS_2D, MAX_POOLS_2D
from torchthin.max7800x.cost.layer import PoolMode, Size
from torchthin.max7800x.mapping.feature_map import FeatureMap, Pool
from torchthin.max7800x.mapping.layer_builder import Unmappable
from torchthin.max7800x.mapping.registry import Call, maps


@maps(*MAX_POOLS_2D, *AVERAGE_POOLS_2D)
def pool(call: Call) -> FeatureMap:
    """Max and average pooling over windows; 1-d pooling is recorded as 2-d over one row."""
    mode: PoolMode = "average" if "avg" in call.op.name else "max"
    features = call.features(call.argument("self"))
    if any(call.argument("padding", (0,))):
        raise Unmappable("padding; the chip pools without")
    if call.argument("divisor_override") is not None:
        raise Unmappable("a divisor of its own; the chip divides by the number of pixels")
    kernel = call.argument("kernel_size")
    stride = call.argument("stride") or kernel
    dilation = call.argument("dilation", (1, 1))
    return _pooled(call, features, mode, _window(kernel), _window(stride), _window(dilation))


@maps("aten.mean")
def mean(call: Call) -> FeatureMap:
    """The mean over all pixels."""
    features = call.features(call.argument("self"))
    rank = len(call.shape(call.argument("self")))
    axes = {axis % rank for axis in call.argument("dim") or range(rank)}
    if axes != set(range(2, rank)):
        raise Unmappable("a mean over other axes than rows and columns")
    return _pooled(call, features, "average", features.pooled, features.pooled, (1, 1))


@maps(*ADAPTIVE_POOLS_2D)
def adaptive(call: Call) -> FeatureMap:
    """Pooling to a given size, where windows are equal."""
    mode: PoolMode = "average" if "avg" in call.op.name else "max"
    features = call.features(call.argument("self"))
    target = _oriented(features, call.argument("output_size"))
    if any(size % out for size, out in zip(features.pooled, target, strict=True)):
        raise Unmappable(
            f"from {features.pooled} to {target} with unequal windows; choose a size that divides"
        )
    rows, columns = (size // out for size, out in zip(features.pooled, target, strict=True))
    return _pooled(call, features, mode, (rows, columns), (rows, columns), (1, 1))


def _window(numbers: Any) -> Size:
    rows, columns = (*numbers, *numbers)[:2]
    return int(rows), int(columns)


def _oriented(features: FeatureMap, size: Any) -> Size:
    """Sequences are columns on the chip, and rows in torch's record of 1-d pooling."""
    rows, columns = _window(size)
    return (columns, rows) if features.sequence else (rows, columns)


def _pooled(
    call: Call, features: FeatureMap, mode: PoolMode, size: Size, stride: Size, dilation: Size
) -> FeatureMap:
    if call.op.name != "aten.mean" and "adaptive" not in call.op.name:
        size, stride, dilation = (_oriented(features, one) for one in (size, stride, dilation))
    if features.sequence:
        stride = (stride[0], stride[0])
    if size == (1, 1) and stride == (1, 1):
        return features
    if features.pool is not None or features.flat:
        features = call.builder.materialize(features)
    if features.shared and not features.plain:
        features = call.builder.materialize(features)
    waiting = Pool(mode, size, stride, dilation, features.eltwise is None, call.path)
    pooled = replace(features, pool=waiting, shared=False)
    if prod(pooled.pooled) * features.channels != prod(call.out_shape[1:]):
        raise Unmappable("windows beyond the border (ceil_mode); the chip pools whole windows only")
    return pooled
