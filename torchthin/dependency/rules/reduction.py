"""Reductions: labels of reduced axes vanish; a result that depends on how many there were is marked."""

from __future__ import annotations

from collections.abc import Sequence

from torchthin.dependency.dead_rules import (
    CONSTANT,
    ZERO,
    DeadCall,
    Emissions,
    accumulated,
    interpolated,
    least,
    pointwise,
    summed,
    worse,
)
from torchthin.dependency.labels import Axes, FlattenedAxis, RankedAxis, with_axis
from torchthin.dependency.registry import Call, positive, register_op
from torchthin.dependency.rules.elementwise import elementwise
from torchthin.graph.output_shift import OUTPUT_SHIFT

_POSITIONS = {"aten.argmax", "aten.argmin"}
_WITH_POSITIONS = {"aten.max", "aten.min", "aten.median", "aten.nanmedian", "aten.mode"}
"""With a `dim`, their second result holds positions along it."""


_KEEP_ZERO = {"aten.mean", "aten.amax", "aten.amin", "aten.any", "aten.all"}


def reduced(call: DeadCall) -> Emissions:
    """A mean or an extreme over other axes than the channel's: constants stay."""
    if call.has("other"):
        return pointwise(call)
    return least(call.of("self"), ZERO if call.op.name in _KEEP_ZERO else CONSTANT)


def counted(call: DeadCall) -> Emissions:
    """What depends on how many there are."""
    return worse(least(call.of("self"), CONSTANT))


@register_op("aten.sum", "aten.nansum", "aten.count_nonzero", accepts_flattened=True, dead=summed, sums=True)
@register_op("aten.linalg_vector_norm", "aten.norm", accepts_flattened=True, dead=summed, sums=True)
@register_op("aten.any", "aten.all", accepts_flattened=True, dead=reduced, sums=True)
@register_op("aten.prod", "aten.logsumexp", accepts_flattened=True, dead=counted)
@register_op(
    "aten.mean", "aten.amax", "aten.amin", "aten.max", "aten.min", "aten.var", "aten.std",
    "aten.var_mean", "aten.std_mean",
    "aten.argmax", "aten.argmin", "aten.median", "aten.nanmedian", "aten.mode", "aten.aminmax", OUTPUT_SHIFT,
    accepts_flattened=True, dead=reduced,
)  # fmt: skip
def reduction(call: Call) -> Sequence[Axes]:
    """Reduce over the argument `dim` (all axes when it is left out)."""
    if call.has("other"):
        return elementwise(call)  # the elementwise forms of max and min
    data = call.axes("self")
    given = call.arg("dim")
    if given is None and call.op.name == "aten.mode":
        given = -1
    rank = len(data)
    listed = [given] if isinstance(given, int) else list(given or ())
    dims = {positive(d, rank) for d in listed} or set(range(rank))
    if any(data[d] is not None for d in dims):
        call.statistics = True
        if call.op.name in _POSITIONS or (call.op.name in _WITH_POSITIONS and call.used(1)):
            for d in dims:
                call.freeze(data[d], "a position along the axis is read")
    keep = bool(call.arg("keepdim", False))
    axes = tuple(None if d in dims else axis for d, axis in enumerate(data) if keep or d not in dims)
    return [axes if len(call.out_shape(i)) == len(axes) else () for i in range(len(call.op.outputs))]


@register_op(
    "aten.cumsum", "aten.cumsum_", "aten.cumprod", "aten.cumprod_", "aten.cummax", "aten.cummin", "aten.topk",
    "aten.kthvalue",
    accepts_flattened=True, dead=accumulated,
)  # fmt: skip
@register_op("aten.logcumsumexp", accepts_flattened=True, dead=counted)
def along_one_axis(call: Call) -> list[Axes]:
    """The order along `dim` matters: its labels freeze."""
    data = call.axes("self")
    if not data:
        return [() for _ in call.op.outputs]
    dim = call.dim(-1)
    call.freeze(data[dim], "the order along the axis matters")
    axes = tuple(None if d == dim else axis for d, axis in enumerate(data))
    if call.op.name == "aten.kthvalue" and not call.arg("keepdim", False):
        axes = tuple(axis for d, axis in enumerate(axes) if d != dim)
    return [axes for _ in call.op.outputs]


@register_op("aten.sort", accepts_flattened=True, dead=interpolated)
def sort(call: Call) -> list[Axes]:
    """Values in order: positions along `dim` become ranks, and there are as many as are kept."""
    data = call.axes("self")
    if not data:
        return [(), ()]
    dim = call.dim(-1)
    axis = data[dim]
    if axis is None:
        return [data, data]
    if call.used(1):
        call.freeze(axis, "a position along the axis is read")
        return [with_axis(data, dim, None)] * 2
    call.statistics = True
    segments = axis.segments if isinstance(axis, FlattenedAxis) else (((axis.size, axis),),)
    return [(*data[:dim], RankedAxis(segments), *data[dim + 1 :])] * 2


@register_op("aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c", dead=summed)
def fourier(call: Call) -> list[Axes]:
    """Frequencies mix all indices along `dim`, by position."""
    data = call.axes("self")
    dims = {positive(d, len(data)) for d in call.arg("dim")}
    for d in dims:
        call.freeze(data[d], "transformed along the axis")
    return [tuple(None if d in dims else axis for d, axis in enumerate(data))]


@register_op("aten._cdist_forward", "aten._euclidean_dist", sums=True)
def distances(call: Call) -> list[Axes]:
    """(..., P, M) and (..., R, M) -> (..., P, R): distances over M."""
    a, b = call.axes("x1"), call.axes("x2")
    out = call.out_shape()
    for batch_a, batch_b, size in zip(a[:-2], b[:-2], out, strict=False):
        if size > 1:
            call.tie(batch_a, batch_b)
    if call.shape("x1")[-1] > 1:
        call.tie(a[-1], b[-1])
        call.statistics = a[-1] is not None
    return [(*a[:-2], a[-2], b[-2])]


@register_op("aten.multinomial")
def drawn(call: Call) -> list[Axes]:
    """Positions are drawn from the last axis."""
    data = call.axes("self")
    call.freeze(data[-1], "positions along the axis are drawn")
    return [(*data[:-1], None)]
