"""Ops that divide an axis or join axes: slices, splits, picks, concatenation."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from torchthin.dependency.dead_rules import joined, moved, summed
from torchthin.dependency.labels import FROZEN, Axes, Axis, Dims, FlattenedAxis, RankedAxis, Vector, with_axis
from torchthin.dependency.registry import Call, positive, register_op
from torchthin.dependency.rules.elementwise import broadcast
from torchthin.graph.operators import SPLITS
from torchthin.graph.opgraph import Ref

_Item = TypeVar("_Item")


@register_op("aten.slice", dead=moved)
def slice_(call: Call) -> list[Axes]:
    """A range of one axis."""
    data = list(call.axes("self"))
    d = call.dim()
    size = call.shape("self")[d]
    start, stop, step = slice(call.arg("start"), call.arg("end"), call.arg("step", 1)).indices(size)
    axis = data[d]
    if isinstance(axis, np.ndarray) and (start, stop, step) != (0, size, 1):
        _choose_range(call, axis, start, stop, step)
        axis = axis[start:stop:step]
        if axis.size == 1:
            call.freeze(axis, "one index is cut out by its number")
    data[d] = axis
    return [tuple(data)]


def _choose_range(call: Call, axis: Vector, start: int, stop: int, step: int) -> None:
    size, width = axis.size, stop - start
    if step > 1 and size % step == 0 and start < step and stop > size - step + start:
        if call.choose(axis, "tied") == "tied":
            tie_rows(call, axis.reshape(-1, step))
    elif step > 1:
        call.freeze(axis, "every so many indices are taken")
    elif width > 0 and size % width == 0 and start % width == 0:
        _divide(call, axis, size // width)
    else:
        call.choose(axis, "free")


@register_op("aten.slice_scatter", dead=joined)
def slice_scatter(call: Call) -> list[Axes]:
    """Write a range of one axis."""
    data, source = call.axes("self"), call.axes("src")
    d = call.dim()
    size = call.shape("self")[d]
    start, stop, step = slice(call.arg("start"), call.arg("end"), call.arg("step", 1)).indices(size)
    axis = data[d]
    if step > 1:
        call.freeze(axis, "every so many indices are written")
    if isinstance(axis, np.ndarray):
        axis = axis[start:stop:step]
        if axis.size == 1:
            call.freeze(axis, "one index is written by its number")
    if call.shape("src")[d] > 1:
        call.tie(axis, source[d])
    _tie_others(call, data, source, d)
    return [data]


@register_op("aten.select_scatter", dead=joined)
def select_scatter(call: Call) -> list[Axes]:
    """Write one index of an axis."""
    data, source = call.axes("self"), call.axes("src")
    d = call.dim()
    call.freeze(data[d], "one index is written by its number")
    _tie_others(call, data, (*source[:d], None, *source[d:]), d)
    return [data]


def _tie_others(call: Call, data: Axes, source: Axes, dim: int) -> None:
    for position, (a, b, size) in enumerate(zip(data, source, call.shape("self"), strict=True)):
        if position != dim and size > 1:
            call.tie(a, b)


@register_op(*SPLITS, dead=moved)
def split(call: Call) -> list[Axes]:
    """Consecutive ranges of one axis; equal ranges must lose equal numbers."""
    data = call.axes("self")
    d = call.dim()
    sizes = [call.out_shape(i)[d] for i in range(len(call.op.outputs))]
    axis = data[d]
    parts: list[Axis] = [axis] * len(sizes)
    if isinstance(axis, np.ndarray) and len(sizes) > 1:
        cuts = list(np.split(axis, np.cumsum(sizes)[:-1]))
        _choose_split(call, axis, cuts)
        for part in cuts:
            if part.size == 1:
                call.freeze(part, "one index is cut out by its number")
        parts = list(cuts)
    return [with_axis(data, d, part) for part in parts]


def _choose_split(call: Call, axis: Vector, parts: list[Vector]) -> None:
    sizes = [part.size for part in parts]
    if len(set(sizes)) == 1:
        _divide(call, axis, len(sizes))
    elif call.op.name.endswith("with_sizes"):
        call.choose(axis, "free")
    elif call.choose(axis, "equal but the last") == "equal but the last":
        call.space.balance(np.stack(parts[:-1]))
        call.freeze(parts[-1], "the shorter last part of a split")


def _divide(call: Call, axis: Vector, blocks: int) -> None:
    """Equal consecutive ranges: remove equal numbers from each, or else the same index from each."""
    rows = axis.reshape(blocks, -1)
    chosen = call.choose(axis, "balanced", "tied")
    if chosen == "balanced":
        call.space.balance(rows)
    elif chosen == "tied":
        tie_rows(call, rows.T)


def tie_rows(call: Call, rows: Vector) -> None:
    """Tie all labels within each row."""
    call.tie(rows[:, 1:], rows[:, :1])


@register_op("aten.select", accepts_flattened=True, accepts_ranked=True, dead=moved)
def select(call: Call) -> list[Axes]:
    """One index of an axis, by number: labels on that axis freeze. The ends of a ranked axis are extremes, though."""
    data = call.axes("self")
    d = call.dim()
    if isinstance(data[d], RankedAxis) and int(call.arg("index")) in {0, -1, call.shape("self")[d] - 1}:
        call.statistics = True
    else:
        call.freeze(call.without_ranks(data[d]), "one index is picked by its number")
    return [(*data[:d], *data[d + 1 :])]


@register_op("aten.unbind", dead=moved)
def unbind(call: Call) -> list[Axes]:
    """All indices of an axis, each for itself: labels on that axis freeze."""
    data = call.axes("self")
    d = call.dim()
    call.freeze(data[d], "one index is picked by its number")
    return [(*data[:d], *data[d + 1 :]) for _ in call.op.outputs]


@register_op("aten.diagonal", dead=moved)
def diagonal(call: Call) -> list[Axes]:
    """A diagonal of two axes is read into a new last axis."""
    data = call.axes("self")
    pair = {positive(int(call.arg(name, default)), len(data)) for name, default in (("dim1", 0), ("dim2", 1))}
    for d in pair:
        call.freeze(data[d], "a diagonal is read")
    return [(*(axis for d, axis in enumerate(data) if d not in pair), None)]


@register_op("aten.diag_embed", dead=summed)
def diag_embed(call: Call) -> list[Axes]:
    """The last axis is laid on a diagonal of zeros: row and column are removed together."""
    data = call.axes("self")
    plain = not call.arg("offset", 0) and (call.arg("dim1", -2), call.arg("dim2", -1)) == (-2, -1)
    if plain:
        return [(*data, data[-1])]
    call.freeze_all(data, "laid on a diagonal")
    return [call.unlabelled()]


@register_op("aten._pack_padded_sequence", dead=moved)
def packed(call: Call) -> list[Axes]:
    """(time, batch, ...) or (batch, time, ...) and lengths -> (steps, ...) and batch sizes."""
    data = call.axes("input")
    call.freeze_all((*data[:2], *call.axes("lengths")), "sequences are packed by their lengths")
    return [(None, *data[2:]), (None,)]


@register_op("aten.cat", accepts_flattened=True, dead=joined)
def cat(call: Call) -> list[Axes]:
    """Join along one axis; the others are shared."""
    refs = [ref for ref in _refs(call) if call.values[ref.value].shape != (0,)]
    shape = call.out_shape()
    dim = positive(int(call.arg("dim", 0)), len(shape))
    parts = [(call.of(ref.value)[dim], call.values[ref.value].shape[dim]) for ref in refs]
    others = [
        (_without(call.values[ref.value].shape, dim), _without(call.of(ref.value), dim)) for ref in refs
    ]
    rest = broadcast(call, others, _without(shape, dim))
    return [(*rest[:dim], _joined(call, parts), *rest[dim:])]


def _joined(call: Call, parts: list[tuple[Axis, int]]) -> Axis:
    if all(axis is None for axis, _ in parts):
        return None
    if any(isinstance(axis, FlattenedAxis) for axis, _ in parts):
        segments: list[Dims] = []
        for axis, size in parts:
            segments.extend(axis.segments if isinstance(axis, FlattenedAxis) else [((size, axis),)])
        return FlattenedAxis(tuple(segments))
    return np.concatenate(
        [axis if isinstance(axis, np.ndarray) else np.full(size, FROZEN, np.int64) for axis, size in parts]
    )


@register_op("aten.stack", dead=joined)
def stack(call: Call) -> list[Axes]:
    """Join along a new axis."""
    refs = _refs(call)
    shape = call.out_shape()
    dim = positive(int(call.arg("dim", 0)), len(shape))
    rest = broadcast(
        call, [(call.values[r.value].shape, call.of(r.value)) for r in refs], _without(shape, dim)
    )
    return [(*rest[:dim], None, *rest[dim:])]


def _refs(call: Call) -> list[Ref]:
    return [item for item in call.arg("tensors") if isinstance(item, Ref)]


def _without(items: tuple[_Item, ...], dim: int) -> tuple[_Item, ...]:
    return (*items[:dim], *items[dim + 1 :])
