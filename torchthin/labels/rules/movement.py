"""Ops that only move numbers: the labels move alike. Where one labelled axis is divided, a choice is recorded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchthin.labels.registry import Call, positive, rule
from torchthin.labels.rules.elementwise import broadcast
from torchthin.labels.space import FROZEN, Axes, Axis, Merged, Vector
from torchthin.trace.opgraph import Ref


@rule("aten.permute")
def permute(call: Call) -> list[Axes]:
    """Reorder all axes."""
    data = call.axes("self")
    return [tuple(data[positive(d, len(data))] for d in call.arg("dims"))]


@rule("aten.transpose", "aten.transpose_")
def transpose(call: Call) -> list[Axes]:
    """Swap two axes."""
    data = list(call.axes("self"))
    a, b = (positive(int(call.arg(name)), len(data)) for name in ("dim0", "dim1"))
    data[a], data[b] = data[b], data[a]
    return [tuple(data)]


@rule("aten.t", "aten.t_", "aten.numpy_T")
def matrix_transpose(call: Call) -> list[Axes]:
    """Swap the two axes of a matrix."""
    return [tuple(reversed(call.axes("self")))]


@rule("aten.unsqueeze", "aten.unsqueeze_")
def unsqueeze(call: Call) -> list[Axes]:
    """Insert an axis of size 1."""
    data = list(call.axes("self"))
    data.insert(positive(int(call.arg("dim")), len(data) + 1), None)
    return [tuple(data)]


@rule("aten.squeeze", "aten.squeeze_", accepts_merged=True)
def squeeze(call: Call) -> list[Axes]:
    """Drop axes of size 1: the labelled ones stay in order."""
    given = call.arg("dim")
    shape = call.shape("self")
    listed = [given] if isinstance(given, int) else list(range(len(shape))) if given is None else list(given)
    dropped = {positive(d, len(shape)) for d in listed if shape and shape[positive(d, len(shape))] == 1}
    return [tuple(axis for d, axis in enumerate(call.axes("self")) if d not in dropped)]


@rule("aten.expand")
def expand(call: Call) -> list[Axes]:
    """Repeat axes of size 1; new axes stand in front."""
    data = call.axes("self")
    new = len(call.out_shape()) - len(data)
    return [(*(None,) * new, *data)]


@rule("aten.flip", "aten.triu", "aten.tril", "aten.triu_", "aten.tril_")
def flip(call: Call) -> list[Axes]:
    """Reverse axes (triangles keep their axes but read positions, so both last axes freeze)."""
    data = call.axes("self")
    if call.op.name != "aten.flip":
        for axis in data[-2:]:
            call.freeze(axis, "positions decide what is zeroed")
        return [data]
    flipped = {positive(d, len(data)) for d in call.arg("dims")}
    return [
        tuple(
            axis[::-1] if d in flipped and isinstance(axis, np.ndarray) else axis
            for d, axis in enumerate(data)
        )
    ]


@rule("aten.roll")
def roll(call: Call) -> list[Axes]:
    """Rotate: a fixed number of indices wraps around, so the indices that wrap must all stay."""
    data = list(call.axes("self"))
    shape = call.shape("self")
    for shift, dim in zip(_as_list(call.arg("shifts")), _as_list(call.arg("dims", [])), strict=False):
        d = positive(dim, len(data))
        axis = data[d]
        if isinstance(axis, np.ndarray):
            by = shift % shape[d]
            call.freeze(axis[axis.size - by :], "a fixed number of channels wraps around")
            data[d] = np.roll(axis, by)
    if not call.arg("dims", []):
        for axis in data:
            call.freeze(axis, "rolled over all axes")
        return [(None,) * len(data)]
    return [tuple(data)]


@rule("aten.constant_pad_nd")
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


@rule("aten.repeat")
def repeat(call: Call) -> list[Axes]:
    """Tile axes; new axes stand in front."""
    repeats = list(call.arg("repeats"))
    data: Axes = (*(None,) * (len(repeats) - len(call.axes("self"))), *call.axes("self"))
    tiled = [
        np.tile(a, n) if isinstance(a, np.ndarray) and n > 1 else a
        for a, n in zip(data, repeats, strict=True)
    ]
    return [tuple(tiled)]


@rule("aten.slice", "aten.narrow")
def slice_(call: Call) -> list[Axes]:
    """A range of one axis."""
    data = list(call.axes("self"))
    d = positive(int(call.arg("dim", 0)), len(data))
    size = call.shape("self")[d]
    start, stop, step = slice(call.arg("start"), call.arg("end"), call.arg("step", 1)).indices(size)
    axis = data[d]
    if isinstance(axis, np.ndarray) and (start, stop, step) != (0, size, 1):
        width = stop - start
        if step > 1 and size % step == 0 and start < step:
            if call.choose(axis, "tied") == "tied":
                _tie_rows(call, axis.reshape(-1, step))
        elif step == 1 and width > 0 and size % width == 0 and start % width == 0:
            _divide(call, axis, size // width)
        else:
            call.choose(axis, "free")
        axis = axis[start:stop:step]
    data[d] = axis
    return [tuple(data)]


@rule("aten.slice_scatter", "aten.slice_backward")
def slice_scatter(call: Call) -> list[Axes]:
    """Write a range of one axis."""
    data, source = call.axes("self"), call.axes("src")
    d = positive(int(call.arg("dim", 0)), len(data))
    size = call.shape("self")[d]
    start, stop, step = slice(call.arg("start"), call.arg("end"), call.arg("step", 1)).indices(size)
    for position, (a, b) in enumerate(zip(data, source, strict=True)):
        if position == d:
            call.tie(a[start:stop:step] if isinstance(a, np.ndarray) else a, b)
        elif call.shape("self")[position] > 1:
            call.tie(a, b)
    return [data]


@rule("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unsafe_split", "aten.unsafe_split_with_sizes",
      "aten.unsafe_chunk", "aten.tensor_split")  # fmt: skip
def split(call: Call) -> list[Axes]:
    """Consecutive ranges of one axis; equal ranges must stay equal."""
    data = call.axes("self")
    d = positive(int(call.arg("dim", 0)), len(data))
    sizes = [call.out_shape(i)[d] for i in range(len(call.op.outputs))]
    axis = data[d]
    parts: list[Axis] = [axis] * len(sizes)
    if isinstance(axis, np.ndarray) and len(sizes) > 1:
        if len(set(sizes)) == 1:
            _divide(call, axis, len(sizes))
        else:
            call.choose(axis, "free")
        parts = list(np.split(axis, np.cumsum(sizes)[:-1]))
    return [(*data[:d], part, *data[d + 1 :]) for part in parts]


def _divide(call: Call, axis: Vector, blocks: int) -> None:
    """Equal consecutive ranges: equal numbers go from each, or else the same index from each."""
    rows = axis.reshape(blocks, -1)
    chosen = call.choose(axis, "balanced", "tied")
    if chosen == "balanced":
        call.space.balance(rows)
    elif chosen == "tied":
        _tie_rows(call, rows.T)


def _tie_rows(call: Call, rows: Vector) -> None:
    """Tie all labels within each row."""
    call.tie(rows[:, 1:], rows[:, :1])


@rule("aten.select", "aten.unbind", "aten.diagonal")
def select(call: Call) -> list[Axes]:
    """One index of an axis, by number: labels on that axis freeze."""
    data = call.axes("self")
    if call.op.name == "aten.diagonal":
        for axis in data:
            call.freeze(axis, "a diagonal is read")
        return [(None,) * len(call.out_shape())]
    d = positive(int(call.arg("dim", 0)), len(data))
    call.freeze(data[d], "one index is picked by its number")
    return [(*data[:d], *data[d + 1 :]) for _ in call.op.outputs]


@rule("aten.cat", "aten.concat", accepts_merged=True)
def cat(call: Call) -> list[Axes]:
    """Join along one axis; the others are shared."""
    refs = [ref for ref in _refs(call) if call.values[ref.value].shape != (0,)]
    shape = call.out_shape()
    dim = positive(int(call.arg("dim", 0)), len(shape))
    parts = [(call.of(ref)[dim], call.values[ref.value].shape[dim]) for ref in refs]
    others = [(_without(call.values[ref.value].shape, dim), _without(call.of(ref), dim)) for ref in refs]
    rest = broadcast(call, others, _without(shape, dim))
    return [(*rest[:dim], _joined(call, parts), *rest[dim:])]


def _joined(call: Call, parts: list[tuple[Axis, int]]) -> Axis:
    if all(axis is None for axis, _ in parts):
        return None
    if any(isinstance(axis, Merged) for axis, _ in parts):
        vectors: list[Vector] = []
        for axis, _ in parts:
            vectors.extend(axis.parts if isinstance(axis, Merged) else () if axis is None else (axis,))
        return Merged(tuple(vectors))
    return np.concatenate(
        [axis if isinstance(axis, np.ndarray) else np.full(size, FROZEN, np.int64) for axis, size in parts]
    )


@rule("aten.stack")
def stack(call: Call) -> list[Axes]:
    """Join along a new axis."""
    refs = _refs(call)
    shape = call.out_shape()
    dim = positive(int(call.arg("dim", 0)), len(shape))
    rest = broadcast(call, [(call.values[r.value].shape, call.of(r)) for r in refs], _without(shape, dim))
    return [(*rest[:dim], None, *rest[dim:])]


def _refs(call: Call) -> list[Ref]:
    return [item for item in call.arg("tensors") if isinstance(item, Ref)]


def _without(items: tuple[object, ...], dim: int) -> tuple[object, ...]:  # type: ignore[misc]
    return (*items[:dim], *items[dim + 1 :])


def _as_list(item: int | Sequence[int]) -> list[int]:
    return [item] if isinstance(item, int) else list(item)


@rule("aten.view", "aten._unsafe_view", "aten.reshape", "aten.flatten", "aten.unflatten", "aten._reshape_alias",
      "aten._reshape_copy", "aten.view_copy", accepts_merged=True)  # fmt: skip
def view(call: Call) -> list[Axes]:
    """Regroup axes: each axis that keeps its extent passes; within the others the labels are laid out and read off."""
    data = call.axes("self")
    if call.values[call.value("self")].shape and not isinstance(call.arg("size", ()), (list, tuple)):
        return [data]  # view as another dtype
    shape, out = call.shape("self"), call.out_shape()
    axes: list[Axis] = [None] * len(out)
    for ins, outs in regroup(shape, out):
        if len(ins) == 1 and len(outs) == 1:
            axes[outs[0]] = data[ins[0]]
        else:
            _lay_out(call, data, shape, out, ins, outs, axes)
    return [tuple(axes)]


def regroup(shape: Sequence[int], out: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the axes of two shapes with equal products; axes of size 1 are left out.

    >>> regroup([2, 12, 5], [2, 3, 4, 5])
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    >>> regroup([2, 3, 1, 4], [6, 4])
    [([0, 1], [0]), ([3], [1])]
    """
    left = [d for d, n in enumerate(shape) if n != 1]
    right = [d for d, n in enumerate(out) if n != 1]
    pairs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        ins, outs = [left[i]], [right[j]]
        a, b = shape[left[i]], out[right[j]]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                ins.append(left[i])
                a *= shape[left[i]]
                i += 1
            else:
                outs.append(right[j])
                b *= out[right[j]]
                j += 1
        pairs.append((ins, outs))
    return pairs


def _lay_out(
    call: Call,
    data: Axes,
    shape: Sequence[int],
    out: Sequence[int],
    ins: list[int],
    outs: list[int],
    axes: list[Axis],
) -> None:
    """Label the axes `outs` of the result from the axes `ins` of the input."""
    labelled = [d for d in ins if data[d] is not None]
    if len(outs) == 1 and len(labelled) > 1:
        vectors: list[Vector] = []
        for d in labelled:
            axis = data[d]
            vectors.extend(axis.parts if isinstance(axis, Merged) else () if axis is None else (axis,))
        axes[outs[0]] = Merged(tuple(vectors))
        return
    sizes_in, sizes_out = [shape[d] for d in ins], [out[d] for d in outs]
    found: dict[int, list[Vector]] = {}
    for d in labelled:
        axis = data[d]
        if not isinstance(axis, np.ndarray):
            call.freeze(axis, "several axes were flattened into one")
            continue
        along = [1] * len(ins)
        along[ins.index(d)] = axis.size
        moved = np.broadcast_to(axis.reshape(along), sizes_in).reshape(sizes_out)
        for position, vector in read_off(call, moved).items():
            found.setdefault(position, []).append(vector)
    for position, contributions in found.items():
        axes[outs[position]] = contributions[0] if len(contributions) == 1 else Merged(tuple(contributions))


def read_off(call: Call, moved: Vector) -> dict[int, Vector]:
    """Find the axis along which laid-out labels vary; where there are several, choose one as the unit and tie along the rest.

    Returns:
        the axis number and its labels.
    """
    varying = [
        d for d in range(moved.ndim) if moved.shape[d] > 1 and bool((moved != moved.take([0], d)).any())
    ]
    if not varying:
        return {}
    unit = varying[0]
    if len(varying) > 1:
        order = sorted(varying, key=lambda d: moved.shape[d] < 5)
        chosen = call.choose(np.unique(moved), *(f"unit {d}" for d in order))
        if chosen == "frozen":
            return {}
        unit = int(chosen.split()[1])
    rows = np.moveaxis(moved, unit, 0).reshape(moved.shape[unit], -1)
    if len(varying) > 1:
        _tie_rows(call, rows)
    return {unit: np.ascontiguousarray(rows[:, 0])}


@rule("aten.pixel_shuffle", "aten.pixel_unshuffle", "aten.channel_shuffle", "aten.native_channel_shuffle")
def shuffle(call: Call) -> list[Axes]:
    """Channels to space and back, and channel shuffle, as views and permutes of the channel axis."""
    data = call.axes("self")
    shape, out = call.shape("self"), call.out_shape()
    channel = 1 if "channel" in call.op.name else len(data) - 3
    for axis in (*data[:channel], *data[channel + 1 :])[1:]:
        call.freeze(axis, "a spatial axis of a shuffle")
    axis = data[channel]
    if not isinstance(axis, np.ndarray):
        return [(None,) * len(out)]
    labels: Axis = axis
    if call.op.name == "aten.pixel_shuffle":
        rows = axis.reshape(out[channel], -1)
        if call.choose(axis, "tied") == "tied":
            _tie_rows(call, rows)
        labels = np.ascontiguousarray(rows[:, 0])
    elif call.op.name == "aten.pixel_unshuffle":
        labels = axis.repeat(out[channel] // shape[channel])
    else:
        rows = axis.reshape(int(call.arg("groups")), -1)
        if call.choose(axis, "tied") == "tied":
            _tie_rows(call, rows.T)
        labels = rows.T.reshape(-1)
    return [(*data[:channel], labels, *(None for _ in out[channel + 1 :]))]


@rule("aten.unfold")
def unfold(call: Call) -> list[Axes]:
    """Windows along one axis, which freezes; the windows' content is a new last axis."""
    data = call.axes("self")
    d = positive(int(call.arg("dimension")), len(data))
    call.freeze(data[d], "windows are cut along the axis")
    return [(*data[:d], None, *data[d + 1 :], None)]


@rule("aten.im2col", "aten.col2im")
def columns(call: Call) -> list[Axes]:
    """(N, C, H, W) <-> (N, C kh kw, L)."""
    data = call.axes("self")
    kernel = int(np.prod(call.arg("kernel_size")))
    axis = data[1]
    if call.op.name == "aten.im2col":
        for spatial in data[2:]:
            call.freeze(spatial, "a spatial axis of unfold")
        return [(data[0], axis.repeat(kernel) if isinstance(axis, np.ndarray) else None, None)]
    call.freeze(data[2], "a spatial axis of fold")
    if isinstance(axis, np.ndarray):
        rows = axis.reshape(-1, kernel)
        _tie_rows(call, rows)
        axis = np.ascontiguousarray(rows[:, 0])
    return [(data[0], axis, None, None)]


@rule("aten.as_strided", "aten.as_strided_")
def as_strided(call: Call) -> list[Axes]:
    """Torch restrides the result of global pooling; any other use is taken by position."""
    data = call.axes("self")
    if tuple(call.arg("size")) == call.shape("self"):
        return [data]
    for axis in data:
        call.freeze(axis, "its storage is addressed by number")
    return [(None,) * len(call.out_shape())]
