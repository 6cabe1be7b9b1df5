"""Views that regroup axes, shuffles and windows. Where one labelled axis is divided, a choice is recorded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchthin.dependency.dead_rules import CONSTANT, VARYING, DeadCall, Emissions, live, moved, summed, worse
from torchthin.dependency.labels import Axes, Axis, Dims, FlattenedAxis, Vector
from torchthin.dependency.registry import Call, positive, register_op
from torchthin.dependency.rules.split_and_cat import tie_rows
from torchthin.graph.operators import VIEWS

FEW = 5
"""Axes of fewer kinds than this are cut last when an axis is divided: they count queries, keys and values, then heads.

A batch that is flattened together with the heads repeats them.
"""


def regrouped(call: DeadCall) -> Emissions:
    """Axes are laid side by side: where channels that go together hold constants of their own, these alternate.

    Rows of a batch are never mixed.
    """
    held = moved(call)
    if "dtype" in call.op.arguments or not (held == CONSTANT).any():
        return held
    pairs = regroup(call.shape("self"), call.out_shape())
    mixed = [axis for ins, outs in pairs if len(ins) > 1 for axis in outs if axis]
    return np.where((held == CONSTANT) & ~call.even(mixed), VARYING, held).astype(np.int8) if mixed else held


@register_op(*VIEWS, accepts_flattened=True, dead=regrouped)
def view(call: Call) -> list[Axes]:
    """Regroup axes: each axis that keeps its extent passes; within the others the labels are laid out and read off."""
    data = call.axes("self")
    if "dtype" in call.op.arguments:
        return [_reinterpreted(call, data)]
    shape, data = _unflattened(call, data)
    out = call.out_shape()
    axes: list[Axis] = [None] * len(out)
    for ins, outs in regroup(shape, out):
        if len(ins) == 1 and len(outs) == 1:
            axes[outs[0]] = data[ins[0]]
        else:
            _lay_out(call, data, shape, out, ins, outs, axes)
    return [tuple(axes)]


def _unflattened(call: Call, data: Axes) -> tuple[list[int], Axes]:
    """Take flattened axes for the axes that they come from."""
    shape: list[int] = []
    axes: list[Axis] = []
    for size, axis in zip(call.shape("self"), data, strict=True):
        dims: Dims = (
            axis.segments[0]
            if isinstance(axis, FlattenedAxis) and len(axis.segments) == 1
            else ((size, None),)
        )
        if isinstance(axis, FlattenedAxis) and len(axis.segments) > 1:
            call.resolve(axis)
            dims = ((size, axis.along_first()),)
        elif isinstance(axis, np.ndarray):
            dims = ((size, axis),)
        shape.extend(n for n, _ in dims)
        axes.extend(vector for _, vector in dims)
    return shape, tuple(axes)


def _reinterpreted(call: Call, data: Axes) -> Axes:
    """The same bytes as another dtype: where its size differs, the last axis changes."""
    if call.out_shape() == call.shape("self"):
        return data
    call.freeze(data[-1], "its bytes are read as another dtype")
    return (*data[:-1], None)


def regroup(shape: Sequence[int], out: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the axes of two shapes with equal products; axes of size 1 are left out.

    >>> regroup([2, 12, 5], [2, 3, 4, 5])
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    >>> regroup([2, 3, 1, 4], [6, 4])
    [([0, 1], [0]), ([3], [1])]
    """
    left = [d for d, n in enumerate(shape) if n != 1]
    right = [d for d, n in enumerate(out) if n != 1]
    if 0 in shape:
        return []
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
        labelled = _firm(call, data, labelled)
    if len(outs) == 1 and len(labelled) > 1:
        axes[outs[0]] = FlattenedAxis((tuple((shape[d], _vector(data[d])) for d in ins),))
        return
    sizes_in, sizes_out = [shape[d] for d in ins], [out[d] for d in outs]
    found: dict[int, list[Vector]] = {}
    for d in labelled:
        axis = data[d]
        assert isinstance(axis, np.ndarray)
        along = [1] * len(ins)
        along[ins.index(d)] = axis.size
        laid = np.broadcast_to(axis.reshape(along), sizes_in).reshape(sizes_out)
        for position, vector in read_off(call, laid).items():
            found.setdefault(position, []).append(vector)
    for position, contributions in found.items():
        axes[outs[position]] = contributions[0]
        for vector in contributions if len(contributions) > 1 else ():
            call.freeze(vector, "regrouped with another axis")


def _firm(call: Call, data: Axes, labelled: list[int]) -> list[int]:
    """Of axes that are flattened together, keep those of parameters; axes made in forward are frozen."""
    firm = [d for d in labelled if not call.space.is_expandable(data[d])]
    for d in labelled:
        if d not in firm:
            call.freeze(data[d], "flattened together with another axis")
    return firm


def _vector(axis: Axis) -> Vector | None:
    return axis if isinstance(axis, np.ndarray) else None


def read_off(call: Call, laid: Vector) -> dict[int, Vector]:
    """Find the axis along which laid-out labels vary; of several, choose one as the unit and tie along the rest.

    Returns:
        the axis number and its labels.
    """
    varying = [d for d in range(laid.ndim) if laid.shape[d] > 1 and bool((laid != laid.take([0], d)).any())]
    if not varying:
        return {}
    unit = varying[0]
    if len(varying) > 1:
        kinds = {
            d: np.unique(laid[(0,) * d + (slice(None),) + (0,) * (laid.ndim - d - 1)]).size for d in varying
        }
        order = sorted(
            varying, key=lambda d: (d != call.first_unit, kinds[d] < FEW, min(-laid.shape[d], -FEW))
        )
        chosen = call.choose(np.unique(laid), *(f"unit {d}" for d in order))
        if chosen == "frozen":
            return {}
        unit = int(chosen.split()[1])
    rows = np.moveaxis(laid, unit, 0).reshape(laid.shape[unit], -1)
    if len(varying) > 1:
        tie_rows(call, rows)
    return {unit: np.ascontiguousarray(rows[:, 0])}


def spread_out(call: DeadCall) -> Emissions:
    """Channels become places: where their constants differ, they alternate."""
    held, rank = moved(call), len(call.shape("self"))
    alternate = (held == CONSTANT) & ~call.even((rank - 2, rank - 1))
    return np.where(alternate, VARYING, held).astype(np.int8)


@register_op("aten.pixel_shuffle", dead=spread_out)
def pixel_shuffle(call: Call) -> list[Axes]:
    """(..., C r r, H, W) -> (..., C, H r, W r): the r r channels of one result are removed together."""
    data = call.axes("self")
    channels = _channels_before_space(call, data)
    if channels is not None:
        rows = channels.reshape(call.out_shape()[-3], -1)
        if call.choose(channels, "tied") == "tied":
            tie_rows(call, rows)
        channels = _single(call, np.ascontiguousarray(rows[:, 0]))
    return [(*data[:-3], channels, None, None)]


@register_op("aten.pixel_unshuffle", dead=moved)
def pixel_unshuffle(call: Call) -> list[Axes]:
    """(..., C, H r, W r) -> (..., C r r, H, W)."""
    data = call.axes("self")
    channels = _channels_before_space(call, data)
    if channels is not None:
        channels = channels.repeat(call.out_shape()[-3] // channels.size)
    return [(*data[:-3], channels, None, None)]


def _channels_before_space(call: Call, data: Axes) -> Vector | None:
    call.freeze_all(data[-2:], "a spatial axis of a shuffle")
    return data[-3] if isinstance(data[-3], np.ndarray) else None


def _single(call: Call, channels: Vector) -> Vector:
    """Freeze a single channel."""
    if channels.size == 1:
        call.freeze(channels, "only one channel results")
    return channels


@register_op("aten.channel_shuffle", "aten.native_channel_shuffle", dead=moved)
def channel_shuffle(call: Call) -> list[Axes]:
    """Transpose the channels, seen as (groups, channels per group): the same index is removed from every group."""
    data = call.axes("self")
    channels = data[1]
    if isinstance(channels, np.ndarray):
        rows = channels.reshape(int(call.arg("groups")), -1)
        if call.choose(channels, "tied") == "tied":
            tie_rows(call, rows.T)
        channels = rows.T.reshape(-1)
    return [(data[0], channels, *data[2:])]


@register_op("aten.unfold", dead=moved)
def unfold(call: Call) -> list[Axes]:
    """Windows along one axis, which freezes; the windows' content is a new last axis."""
    data = call.axes("self")
    d = positive(int(call.arg("dimension")), len(data))
    call.freeze(data[d], "windows are cut along the axis")
    return [(*data[:d], None, *data[d + 1 :], None)]


def unfolded(call: DeadCall) -> Emissions:
    """Windows, which see a border of zeros where the op pads."""
    held = call.of("self")
    return worse(held) if any(call.arg("padding", ())) else held


@register_op("aten.im2col", dead=unfolded)
def im2col(call: Call) -> list[Axes]:
    """(..., C, H, W) -> (..., C kh kw, L)."""
    data = call.axes("self")
    call.freeze_all(data[-2:], "a spatial axis of unfold")
    channels = data[-3]
    if isinstance(channels, np.ndarray):
        channels = channels.repeat(int(np.prod(call.arg("kernel_size"))))
    return [(*data[:-3], channels, None)]


@register_op("aten.col2im", dead=summed)
def col2im(call: Call) -> list[Axes]:
    """(..., C kh kw, L) -> (..., C, H, W): the kh kw rows of one channel are removed together."""
    data = call.axes("self")
    call.freeze(data[-1], "a spatial axis of fold")
    channels = data[-2]
    if isinstance(channels, np.ndarray):
        rows = channels.reshape(-1, int(np.prod(call.arg("kernel_size"))))
        tie_rows(call, rows)
        channels = _single(call, np.ascontiguousarray(rows[:, 0]))
    return [(*data[:-2], channels, None, None)]


def restrided(call: DeadCall) -> Emissions:
    """The same numbers where the size stays; otherwise nobody knows which."""
    same = tuple(call.arg("size")) == call.shape("self") and not call.arg("storage_offset")
    return moved(call) if same else live(call)


@register_op("aten.as_strided", "aten.as_strided_", dead=restrided)
def as_strided(call: Call) -> list[Axes]:
    """Torch restrides the result of global pooling; any other use is taken by position."""
    data = call.axes("self")
    if tuple(call.arg("size")) == call.shape("self") and not call.arg("storage_offset"):
        return [data]
    call.freeze_all(data, "its storage is addressed by number")
    return [call.unlabelled()]
