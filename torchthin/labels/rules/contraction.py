"""Ops that sum over channels: convolutions and matrix products."""

from __future__ import annotations

from torchthin.labels.registry import Call, Contraction, rule
from torchthin.labels.rules.elementwise import broadcast
from torchthin.labels.space import Axes, Axis, Merged, Vector


def _vector(axis: Axis) -> Vector | None:
    assert not isinstance(axis, Merged)
    return axis


@rule("aten.convolution", "aten._convolution", "aten.convolution_overrideable")
def convolution(call: Call) -> list[Axes]:
    """Data (N, C, ...), weight (out, C / conv groups, ...), transposed (C, out / conv groups, ...)."""
    data, weight = call.axes("input"), call.axes("weight")
    for axis in data[2:]:
        call.freeze(axis, "a spatial axis of a convolution")
    for axis in weight[2:]:
        call.freeze(axis, "the kernel size of a convolution")
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
    if call.has("bias") and out is not None:
        call.tie(call.axes("bias")[0], out)
    return [(data[0], out, *(None for _ in call.out_shape()[2:]))]


def _one_input_per_group(call: Call, data: Axis, weight: Axes, conv_groups: int, transposed: bool) -> Axis:
    """Depthwise: output c lives and dies with input c; with a multiplier, all outputs of one input go together."""
    source = _vector(data)
    if source is None:
        call.freeze(weight[0], "a depthwise convolution of channels that cannot go")
        call.freeze(weight[1], "a depthwise convolution of channels that cannot go")
        return None
    if transposed:
        call.tie(source, weight[0])
        call.freeze(weight[1], "outputs per conv group of a transposed convolution")
        multiplier = call.shape("weight")[1]
        return source if multiplier == 1 else source.repeat(multiplier)
    filters = _vector(weight[0])
    assert filters is not None
    call.tie(filters.reshape(conv_groups, -1), source[:, None])
    return filters


def _grouped(call: Call, data: Axis, weight: Axes, conv_groups: int, transposed: bool) -> Axis:
    """The same input index goes from every conv group; outputs go in equal numbers from every conv group."""
    source = _vector(data)
    inner, outer = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    if transposed:
        call.tie(source, inner)
        if source is not None:
            call.space.balance(source.reshape(conv_groups, -1))
        out = _vector(outer)
        return None if out is None else out if conv_groups == 1 else _tiled(out, conv_groups)
    if source is None:
        call.freeze(inner, "a grouped convolution of channels that cannot go")
    elif inner is not None:
        call.tie(source.reshape(conv_groups, -1), _vector(inner))
    out = _vector(outer)
    if out is not None:
        call.space.balance(out.reshape(conv_groups, -1))
    return out


def _tiled(labels: Vector, times: int) -> Vector:
    return labels[None].repeat(times, axis=0).reshape(-1)


@rule("aten.mm", "aten.addmm", "aten.addmm_", "aten.bmm", "aten.baddbmm", "aten.baddbmm_")
def matrix_product(call: Call) -> list[Axes]:
    """(..., m, k) x (..., k, n), with an optional addend that broadcasts."""
    first, second = ("mat1", "mat2") if call.has("mat1") else ("self", "mat2")
    if call.has("batch1"):
        first, second = "batch1", "batch2"
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
    addend = "self" if call.has("self") and first != "self" else None
    if addend is not None:
        out = broadcast(call, [(shape, out), (call.shape(addend), call.axes(addend))], shape)
    rank = len(shape)
    call.contraction = Contraction(call.value(first), rank - 1, call.value(second), addend, rank - 1)
    return [out]


@rule("aten.linear", "aten._addmm_activation", "aten.mkldnn_linear")
def linear(call: Call) -> list[Axes]:
    """(..., in) x (out, in)."""
    data, weight = call.axes("input"), call.axes("weight")
    if call.shape("input")[-1] > 1:
        call.tie(data[-1], weight[1])
    if call.has("bias") and weight[0] is not None:
        call.tie(weight[0], call.axes("bias")[0])
    rank = len(call.out_shape())
    call.contraction = Contraction(call.value("input"), rank - 1, call.value("weight"), "bias", rank - 1)
    return [(*data[:-1], weight[0])]


@rule("aten.mv", "aten.addmv")
def matrix_vector(call: Call) -> list[Axes]:
    """(m, k) x (k)."""
    matrix, vector = ("mat", "vec") if call.has("mat") else ("self", "vec")
    call.tie(call.axes(matrix)[1], call.axes(vector)[0])
    return [(call.axes(matrix)[0],)]


@rule("aten.dot", "aten.vdot")
def inner_product(call: Call) -> list[Axes]:
    """(k) x (k)."""
    call.tie(call.axes("self")[0], call.axes("tensor" if call.has("tensor") else "other")[0])
    return [()]
