"""Ops that sum over channels: convolutions and matrix products."""

from __future__ import annotations

import numpy as np

from torchthin.dependency.dead_rules import (
    ABSENT,
    CONSTANT,
    LIVE,
    VARYING,
    ZERO,
    DeadCall,
    Emissions,
    product,
    worse,
)
from torchthin.dependency.labels import Axes, Axis, FlattenedAxis, Vector
from torchthin.dependency.registry import Call, Contraction, register_op
from torchthin.dependency.rules.elementwise import broadcast
from torchthin.graph.operators import BATCHED_PRODUCTS, CONVOLUTIONS, GROUPED_PRODUCTS, PRODUCTS


def _vector(axis: Axis) -> Vector | None:
    assert not isinstance(axis, FlattenedAxis)
    return axis


def multiplied(
    call: DeadCall, first: str, first_axis: int, second: str, second_axis: int, addend: str | None
) -> Emissions:
    """A product of two operands, summed over one axis of each, with something added.

    A row of the first or a column of the second becomes a combination of what it holds, by the numbers of the other operand:
    independent of the input only if these are. Where both have the axis (a batch of matrices), it is zero where either is.
    """
    ranks = len(call.shape(first)), len(call.shape(second))
    shared = (0,) if call.op.name in BATCHED_PRODUCTS else ()
    a, b = (
        call.of(name, *(axis for axis in range(rank) if axis != summed % rank and axis not in shared))
        for name, rank, summed in zip((first, second), ranks, (first_axis, second_axis), strict=True)
    )
    by_a = worse(a) if call.static(second) else worse(a, LIVE, LIVE)
    spread = worse(b) if call.static(first) else worse(b, LIVE, LIVE)
    by_b = np.where(b == CONSTANT, CONSTANT, spread) if call.stochastic(first) else spread
    made = np.maximum(by_a, by_b)
    if shared:
        p, q = call.of(first, 0), call.of(second, 0)
        both = np.where((p == ZERO) | (q == ZERO), ZERO, np.where(np.maximum(p, q) <= VARYING, VARYING, LIVE))
        made = np.maximum(made, np.where((p == ABSENT) & (q == ABSENT), ABSENT, both))
    if addend is not None and call.has(addend):
        made = np.maximum(made, call.whole(addend))
    return made.astype(np.int8)


def convolved(call: DeadCall) -> Emissions:
    """A masked filter emits its bias. A depthwise one that is not masked makes of a constant one with a border, if it pads."""
    transposed, groups = bool(call.arg("transposed", False)), int(call.arg("groups", 1))
    made = multiplied(call, "input", 1, "weight", 0 if transposed else 1, "bias")
    if not (groups > 1 and groups == call.shape("input")[1]):
        return made
    bordered = transposed or any(call.arg("padding", ()))
    data, weight = call.of("input", 1), call.of("weight", 0)
    own = worse(data) if bordered else data
    own = np.where((weight == ZERO) | (data == ZERO), ZERO, own if call.static("weight") else LIVE)
    own = np.maximum(own, call.of("bias")) if call.has("bias") else own
    return np.where(data == ABSENT, made, own).astype(np.int8)


def multiplied_matrices(call: DeadCall) -> Emissions:
    """Rows and columns of a matrix product."""
    first, second, addend = PRODUCTS[call.op.name]
    return multiplied(call, first, -1, second, -2, addend)


@register_op(*CONVOLUTIONS, dead=convolved)
def convolution(call: Call) -> list[Axes]:
    """Data (N, C, ...), weight (out, C / conv groups, ...), transposed (C, out / conv groups, ...)."""
    data, weight = call.axes("input"), call.axes("weight")
    places = tuple(axis if _stays_in_place(call, d) else None for d, axis in enumerate(data[2:]))
    moved = [axis for axis, stays in zip(data[2:], places, strict=True) if stays is None]
    call.freeze_all(moved, "a spatial axis of a convolution")
    call.freeze_all(weight[2:], "the kernel size of a convolution")
    conv_groups = int(call.arg("groups", 1))
    depthwise = False
    if conv_groups > 1:
        shape = call.shape("weight")
        channels = call.shape("input")[1]
        transposed = bool(call.arg("transposed", False))
        per_group = shape[1] if not transposed else channels // conv_groups
        if per_group == 1:
            out = _one_input_per_group(call, data[1], weight, conv_groups, transposed)
            depthwise = True
        else:
            out = _grouped(call, data[1], weight, conv_groups, transposed)
    else:
        inner, out = (weight[0], weight[1]) if call.arg("transposed", False) else (weight[1], weight[0])
        if call.shape("input")[1] > 1:
            call.tie(data[1], inner)
    if not depthwise:
        call.contraction = Contraction(call.value("input"), 1, call.value("weight"), "bias", 1)
    if call.has("bias"):
        call.tie(call.axes("bias")[0], out)
    return [(data[0], out, *places)]


def _stays_in_place(call: Call, d: int) -> bool:
    """Whether a convolution treats every place along a spatial axis alike: kernel and stride 1 and no border."""
    names = ("stride", 1), ("padding", 0), ("output_padding", 0)
    given = [(call.arg(name, ()), plain) for name, plain in names]
    return call.shape("weight")[2 + d] == 1 and all(
        values[d if len(values) > 1 else 0] == plain for values, plain in given if len(values)
    )


def _one_input_per_group(call: Call, data: Axis, weight: Axes, conv_groups: int, transposed: bool) -> Axis:
    """Depthwise: output c is removed with input c; with a multiplier, all outputs of one input are removed together."""
    source = _vector(data)
    if source is None:
        call.freeze(weight[0], "a depthwise convolution of channels that are frozen")
        call.freeze(weight[1], "a depthwise convolution of channels that are frozen")
        return None
    if transposed:
        call.tie(source, weight[0])
        call.freeze(weight[1], "outputs per conv group of a transposed convolution")
        multiplier = call.shape("weight")[1]
        return source if multiplier == 1 else source.repeat(multiplier)
    filters = _vector(weight[0])
    if filters is None:
        call.freeze(source, "a depthwise convolution by a weight that cannot change")
        return None
    call.tie(filters.reshape(conv_groups, -1), source[:, None])
    return source if filters.size == source.size else filters  # what repeats itself goes on doing so


def _grouped(call: Call, data: Axis, weight: Axes, conv_groups: int, transposed: bool) -> Axis:
    """The same input index is removed from every conv group, and equal numbers of outputs."""
    source = _vector(data)
    inner, outer = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    if transposed:
        call.tie(source, inner)
        if source is not None:
            call.space.balance(source.reshape(conv_groups, -1))
        out = _vector(outer)
        return None if out is None else out if conv_groups == 1 else _tiled(out, conv_groups)
    if source is None:
        call.freeze(inner, "a grouped convolution of channels that are frozen")
    elif inner is None:
        call.freeze(source, "a grouped convolution by a weight that cannot change")
    else:
        call.tie(source.reshape(conv_groups, -1), _vector(inner))
    out = _vector(outer)
    if out is not None:
        call.space.balance(out.reshape(conv_groups, -1))
    return out


def _tiled(labels: Vector, times: int) -> Vector:
    return labels[None].repeat(times, axis=0).reshape(-1)


@register_op(*PRODUCTS, dead=multiplied_matrices)
def matrix_product(call: Call) -> list[Axes]:
    """(..., m, k) x (..., k, n), with an optional addend that broadcasts."""
    first, second, addend = PRODUCTS[call.op.name]
    a, b = call.axes(first), call.axes(second)
    if call.shape(first)[-1] > 1:
        call.tie(a[-1], b[-2])
    shape = call.out_shape()
    batch = broadcast(
        call,
        [(call.shape(first)[:-2], a[:-2]), (call.shape(second)[:-2], b[:-2])],
        shape[:-2],
    )
    out = (*batch, a[-2], b[-1])
    if addend is not None:
        out = broadcast(call, [(shape, out), (call.shape(addend), call.axes(addend))], shape)
    rank = len(shape)
    call.contraction = Contraction(call.value(first), rank - 1, call.value(second), addend, rank - 1)
    return [out]


def multiplied_by_experts(call: DeadCall) -> Emissions:
    """Rows of a product; every expert has columns of its own."""
    made = multiplied(call, "self", -1, "mat2", -2, None)
    return made if call.static("offs") else worse(made, LIVE, LIVE)


@register_op(*GROUPED_PRODUCTS, dead=multiplied_by_experts)
def grouped_product(call: Call) -> list[Axes]:
    """(rows, k) x (experts, k, n): rows go to experts by number."""
    a, b = call.axes("self"), call.axes("mat2")
    plain = len(a) == 2 and len(b) == 3 and not call.has("bias")
    call.freeze_all((a[0], b[0]) if plain else (*a, *b), "a grouped product takes rows and experts by number")
    if not plain:
        return [call.unlabelled()]
    if call.shape("self")[1] > 1:
        call.tie(a[1], b[1])
    call.contraction = Contraction(call.value("self"), 1, call.value("mat2"), None, 1)
    return [(None, b[2])]


@register_op("aten.mv", "aten.addmv", sums=True)
def matrix_vector(call: Call) -> list[Axes]:
    """(m, k) x (k). Mostly part of a norm (spectral norm), so what is removed is left out as from statistics."""
    name = "mat" if call.has("mat") else "self"
    matrix, vector = call.axes(name), call.axes("vec")
    if call.shape("vec")[0] > 1:
        call.tie(matrix[1], vector[0])
        call.statistics = matrix[1] is not None
    if name == "self":
        return [(matrix[0],)]
    shape = call.out_shape()
    return [broadcast(call, [(shape, (matrix[0],)), (call.shape("self"), call.axes("self"))], shape)]


@register_op("aten.dot", "aten.vdot", sums=True)
def inner_product(call: Call) -> list[Axes]:
    """(k) x (k): what is removed is left out."""
    a, b = call.axes("self")[0], call.axes("tensor" if call.has("tensor") else "other")[0]
    if call.shape("self")[0] > 1:
        call.tie(a, b)
        call.statistics = a is not None
    return [()]


@register_op("aten._trilinear", dead=product, sums=True)
def trilinear(call: Call) -> list[Axes]:
    """The product of three tensors, each unsqueezed at its own axes, summed over some (bilinear layers)."""
    operands: list[tuple[tuple[int, ...], Axes]] = []
    for number in ("1", "2", "3"):
        shape, axes = list(call.shape(f"i{number}")), list(call.axes(f"i{number}"))
        for d in call.arg(f"expand{number}"):
            shape.insert(d, 1)
            axes.insert(d, None)
        operands.append((tuple(shape), tuple(axes)))
    full = tuple(max(sizes) for sizes in zip(*(shape for shape, _ in operands), strict=True))
    shared = broadcast(call, operands, full)
    summed = {int(d) for d in call.arg("sumdim")}
    call.statistics = any(shared[d] is not None for d in summed)
    return [tuple(axis for d, axis in enumerate(shared) if d not in summed)]
