"""Elementwise ops: operands share their axes, size-1 axes broadcast."""

from __future__ import annotations

import numpy as np

from torchthin.dependency.dead_rules import (
    ABSENT,
    LIVE,
    VARYING,
    DeadCall,
    Emissions,
    live,
    moved,
    overwritten,
    pointwise,
    product,
    quotient,
    rounded,
    selected,
    worse,
    written,
)
from torchthin.dependency.labels import Axes, Axis, FlattenedAxis, with_axis
from torchthin.dependency.registry import Call, register_op
from torchthin.graph.opgraph import Ref


def copied(call: DeadCall) -> Emissions:
    """What is copied, where it has the channel."""
    source, before = call.of("src"), call.of("self")
    other = VARYING if call.static("src") else LIVE
    return np.where(before == ABSENT, source, np.where(source == ABSENT, other, source)).astype(np.int8)


@register_op("aten.native_dropout", accepts_flattened=True, dead=written)
@register_op("aten.copy_", accepts_flattened=True, dead=copied)
@register_op("aten.mul", "aten.mul_", accepts_flattened=True, dead=product)
@register_op("aten.div", "aten.div_", accepts_flattened=True, dead=quotient)
@register_op(
    "aten.where",
    "aten.masked_fill",
    "aten.masked_fill_",
    accepts_flattened=True,
    dead=selected,
)
@register_op(
    "aten.rand_like", "aten.randn_like", "aten.randint_like", "aten.bernoulli", "aten.bernoulli_", "aten.uniform_",
    "aten.normal", "aten.normal_", "aten.exponential_", "aten.random_", "aten.rrelu_with_noise",
    accepts_flattened=True, dead=live,
)  # fmt: skip
@register_op(
    "aten.zeros_like", "aten.ones_like", "aten.empty_like", "aten.full_like", "aten.fill", "aten.fill_", "aten.zero_",
    accepts_flattened=True, dead=overwritten,
)  # fmt: skip
@register_op(
    "aten.alias", "aten._to_copy", "aten.lift", "aten.lift_fresh", "aten.lift_fresh_copy", "aten.clone",
    accepts_flattened=True, dead=moved,
)  # fmt: skip
@register_op(
    "aten._prelu_kernel", "aten.hardswish", "aten.hardswish_", "aten.log_sigmoid_forward",
    "aten.complex", "aten.polar", "aten.isinf", "aten.isnan", "aten.rsub", "aten.floor_divide", "aten.floor_divide_",
    # without a tag in torch 2.3
    "aten.celu", "aten.celu_", "aten.elu", "aten.elu_", "aten.hardshrink", "aten.hardsigmoid", "aten.hardsigmoid_",
    "aten.hardtanh", "aten.hardtanh_", "aten.leaky_relu", "aten.leaky_relu_", "aten.mish", "aten.softplus",
    "aten.softshrink", "aten.threshold", "aten.rad2deg", "aten.rad2deg_",
    accepts_flattened=True, dead=pointwise,
)  # fmt: skip
@register_op(
    "aten.fake_quantize_per_tensor_affine_cachemask",
    "aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "aten._fake_quantize_learnable_per_tensor_affine",
    accepts_flattened=True,
    dead=rounded,
)
def elementwise(call: Call) -> list[Axes]:
    """Tie along every axis that the operands share; also serves every operator that torch tags as pointwise."""
    operands = [
        (call.values[number].shape, call.of(number)) for number in call.op.reads if call.values[number].shape
    ]
    return [
        broadcast(call, operands, () if ref is None else call.values[ref.value].shape)
        for ref in call.op.outputs
    ]


def broadcast(call: Call, operands: list[tuple[tuple[int, ...], Axes]], shape: tuple[int, ...]) -> Axes:
    """Tie operands of the given shapes that are broadcast to `shape`; return the result's axes."""
    return tuple(_shared(call, operands, size, len(shape) - axis) for axis, size in enumerate(shape))


def _shared(call: Call, operands: list[tuple[tuple[int, ...], Axes]], size: int, from_end: int) -> Axis:
    if size == 1:
        return None
    met = [axes[-from_end] for dims, axes in operands if len(dims) >= from_end and dims[-from_end] == size]
    if not met:
        return None
    first = next((axis for axis in met if not call.space.is_expandable(axis)), met[0])
    alike = [tie_pair(call, first, other) for other in met if other is not first]
    return first if all(alike) else None


def tie_pair(call: Call, a: Axis, b: Axis) -> bool:
    """Tie two axes; flattened ones part by part when they were flattened alike. Return whether the result keeps their labels."""
    if isinstance(a, FlattenedAxis) and isinstance(b, FlattenedAxis) and _sizes(a) == _sizes(b):
        for mine, theirs in zip(a.segments, b.segments, strict=True):
            for (_, one), (_, other) in zip(mine, theirs, strict=True):
                if one is not other:
                    call.tie(one, other)
        return True
    call.tie(a, b)
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray)


def _sizes(axis: FlattenedAxis) -> list[list[int]]:
    return [[size for size, _ in dims] for dims in axis.segments]


@register_op(
    "aten._foreach_add",
    "aten._foreach_mul",
    "aten._foreach_sub",
    "aten._foreach_div",
    accepts_flattened=True,
    dead=pointwise,
)
def foreach(call: Call) -> list[Axes]:
    """Lists of tensors, each with its partner."""
    lists = [argument for argument in call.op.arguments.values() if isinstance(argument, list)]
    lists = [refs for refs in lists if refs and all(isinstance(ref, Ref) for ref in refs)]
    results = []
    for partners, made in zip(zip(*lists, strict=True), call.op.outputs, strict=True):
        operands = [(call.values[ref.value].shape, call.of(ref.value)) for ref in partners]
        results.append(broadcast(call, operands, () if made is None else call.values[made.value].shape))
    return results


def paired(call: DeadCall) -> Emissions:
    """Real and imaginary parts alternate."""
    return worse(moved(call))


@register_op("aten.view_as_real", "aten.view_as_complex", dead=paired)
def as_pairs(call: Call) -> list[Axes]:
    """Complex numbers are pairs on a new last axis."""
    data = call.axes("self")
    if call.op.name == "aten.view_as_real":
        return [(*data, None)]
    call.freeze(data[-1], "pairs are read as complex numbers")
    return [data[:-1]]


@register_op("aten.glu", dead=pointwise)
def glu(call: Call) -> list[Axes]:
    """One half times the sigmoid of the other: index i is removed with index i of the other half."""
    data = call.axes("self")
    dim = call.dim(-1)
    axis = data[dim]
    if not isinstance(axis, np.ndarray):
        return [data]
    first, second = axis.reshape(2, -1)
    call.tie(first, second)
    if first.size == 1:
        call.freeze(first, "its half is one index")
    return [with_axis(data, dim, first)]


@register_op(
    "aten.fake_quantize_per_channel_affine_cachemask",
    "aten._fake_quantize_learnable_per_channel_affine",
    dead=rounded,
)
def per_channel(call: Call) -> list[Axes]:
    """Scale and zero point follow one axis."""
    data = call.axes("self")
    for name in ("scale", "zero_point"):
        if call.shape(name)[0] > 1:
            call.tie(data[int(call.arg("axis"))], call.axes(name)[0])
    return [data for _ in call.op.outputs]
