"""Ops that only move numbers: the labels move alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchthin.dependency.dead_rules import (
    ABSENT,
    CONSTANT,
    DeadCall,
    Emissions,
    accumulated,
    least,
    moved,
    worse,
)
from torchthin.dependency.labels import FROZEN, Axes, Axis
from torchthin.dependency.registry import Call, positive, register_op


@register_op("aten.permute", dead=moved)
def permute(call: Call) -> list[Axes]:
    """Reorder all axes."""
    data = call.axes("self")
    return [tuple(data[positive(d, len(data))] for d in call.arg("dims"))]


@register_op("aten.transpose", "aten.transpose_", dead=moved)
def transpose(call: Call) -> list[Axes]:
    """Swap two axes."""
    data = list(call.axes("self"))
    a, b = (positive(int(call.arg(name)), len(data)) for name in ("dim0", "dim1"))
    data[a], data[b] = data[b], data[a]
    return [tuple(data)]


@register_op("aten.t", "aten.t_", dead=moved)
def matrix_transpose(call: Call) -> list[Axes]:
    """Swap the two axes of a matrix."""
    return [tuple(reversed(call.axes("self")))]


@register_op("aten.unsqueeze", "aten.unsqueeze_", dead=moved)
def unsqueeze(call: Call) -> list[Axes]:
    """Insert an axis of size 1."""
    data = list(call.axes("self"))
    data.insert(positive(int(call.arg("dim")), len(data) + 1), None)
    return [tuple(data)]


@register_op("aten.squeeze", "aten.squeeze_", accepts_flattened=True, dead=moved)
def squeeze(call: Call) -> list[Axes]:
    """Drop axes of size 1; the labelled ones keep their order."""
    given = call.arg("dim")
    shape = call.shape("self")
    listed = [given] if isinstance(given, int) else list(range(len(shape))) if given is None else list(given)
    dropped = {positive(d, len(shape)) for d in listed if shape and shape[positive(d, len(shape))] == 1}
    return [tuple(axis for d, axis in enumerate(call.axes("self")) if d not in dropped)]


@register_op("aten.expand", dead=moved)
def expand(call: Call) -> list[Axes]:
    """Axes of size 1 are repeated, and new ones are put in front: all their indices are alike."""
    data, out = call.axes("self"), call.out_shape()
    shape = (1,) * (len(out) - len(data)) + call.shape("self")
    kept = (*(None,) * (len(out) - len(data)), *data)
    return [tuple(_repeated(call, axis, n, m) for axis, n, m in zip(kept, shape, out, strict=True))]


def _repeated(call: Call, axis: Axis, before: int, after: int) -> Axis:
    return call.space.fresh(after, expandable=True) if before == 1 and after > 1 else axis


@register_op("aten.flip", dead=moved)
def flip(call: Call) -> list[Axes]:
    """Reverse axes."""
    data = call.axes("self")
    flipped = {positive(d, len(data)) for d in call.arg("dims")}
    return [
        tuple(
            axis[::-1] if d in flipped and isinstance(axis, np.ndarray) else axis
            for d, axis in enumerate(data)
        )
    ]


@register_op("aten.triu", "aten.tril", "aten.triu_", "aten.tril_", dead=accumulated)
def triangle(call: Call) -> list[Axes]:
    """Zero a triangle of the last two axes, by position."""
    data = call.axes("self")
    call.freeze_all(data[-2:], "positions decide what is zeroed")
    return [data]


@register_op("aten.roll", dead=moved)
def roll(call: Call) -> list[Axes]:
    """Rotate: a fixed number of indices wraps around, so the indices that wrap are frozen."""
    data = list(call.axes("self"))
    for shift, dim in zip(_as_list(call.arg("shifts")), _as_list(call.arg("dims", [])), strict=False):
        d = positive(dim, len(data))
        axis = data[d]
        if isinstance(axis, np.ndarray):
            wraps = min(abs(shift), axis.size)
            call.freeze(
                axis[axis.size - wraps :] if shift > 0 else axis[:wraps], "a fixed number wraps around"
            )
            data[d] = np.roll(axis, shift)
    if not call.arg("dims", []):
        call.freeze_all(data, "rolled over all axes")
        return [(None,) * len(data)]
    return [tuple(data)]


def padded(call: DeadCall) -> Emissions:
    """A border of another value; none where only the channel axis itself is padded, or where zeros are among zeros."""
    held = call.of("self")
    rank, pad = len(call.shape("self")), list(call.arg("pad"))
    sides = [rank - 1 - number // 2 for number, width in enumerate(pad) if width]
    beside = [np.asarray(call.of("self", axis) == ABSENT) for axis in sides]
    bordered = np.logical_or.reduce([*beside, np.zeros(held.shape, np.bool_)])
    made = held if float(call.arg("value", 0) or 0) == 0 else least(held, CONSTANT)
    return np.where(bordered, worse(made), held).astype(np.int8)


@register_op("aten.constant_pad_nd", dead=padded)
def constant_pad(call: Call) -> list[Axes]:
    """Pad from the last axis backwards; padding on a labelled axis is frozen."""
    data = list(call.axes("self"))
    pad = list(call.arg("pad"))
    for k in range(len(pad) // 2):
        d = len(data) - 1 - k
        before, after = pad[2 * k], pad[2 * k + 1]
        axis = data[d]
        if isinstance(axis, np.ndarray) and (before or after):
            if before < 0 or after < 0:
                call.freeze(axis, "padding cuts a part off")
                data[d] = None
            else:
                data[d] = np.pad(axis, (before, after), constant_values=FROZEN)
    return [tuple(data)]


@register_op("aten.repeat", dead=moved)
def repeat(call: Call) -> list[Axes]:
    """Tile axes; new axes are put in front."""
    repeats = list(call.arg("repeats"))
    new = len(repeats) - len(call.axes("self"))
    data: Axes = (*(None,) * new, *call.axes("self"))
    shape = (1,) * new + call.shape("self")
    return [
        tuple(
            np.tile(axis, n)
            if isinstance(axis, np.ndarray) and n > 1
            else _repeated(call, axis, size, size * n)
            for axis, size, n in zip(data, shape, repeats, strict=True)
        )
    ]


def _as_list(item: int | Sequence[int]) -> list[int]:
    return [item] if isinstance(item, int) else list(item)
