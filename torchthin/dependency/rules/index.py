"""Indexing by tensors: what is looked up by number freezes, the other axes pass."""

from __future__ import annotations

from torchthin.dependency.dead_rules import CONSTANT, LIVE, DeadCall, Emissions, least, picked, worse, written
from torchthin.dependency.labels import Axes, Axis
from torchthin.dependency.registry import Call, register_op
from torchthin.graph.opgraph import Ref

_BY_NUMBER = "its indices are looked up by number"


def _indexed(call: Call) -> tuple[list[int], list[Ref], int]:
    """Axes of `self` that are indexed, their index tensors, and how many axes each boolean mask swallows in all."""
    axes: list[int] = []
    refs: list[Ref] = []
    position = 0
    for item in call.arg("indices"):
        if isinstance(item, Ref):
            value = call.values[item.value]
            width = len(value.shape) if str(value.dtype) in {"torch.bool", "torch.uint8"} else 1
            axes.extend(range(position, position + width))
            refs.append(item)
            position += width
        else:
            position += 1
    return axes, refs, position


@register_op("aten.index", "aten._unsafe_index", dead=picked)
def index(call: Call) -> list[Axes]:
    """x[i, :, j]: indexed axes freeze; the index's own axes take their place (in front when they are apart)."""
    data = call.axes("self")
    indexed, refs, _ = _indexed(call)
    for d in indexed:
        call.freeze(data[d], _BY_NUMBER)
    for ref in refs:
        call.freeze_all(call.of(ref.value), "used as an index")
    out = call.out_shape()
    new = len(out) - (len(data) - len(indexed))
    adjacent = indexed == list(range(indexed[0], indexed[0] + len(indexed))) if indexed else True
    front = indexed[0] if indexed and adjacent else 0
    rest = [axis for d, axis in enumerate(data) if d not in indexed]
    return [(*rest[:front], *(None,) * new, *rest[front:])]


@register_op("aten.index_put", "aten.index_put_", "aten._unsafe_index_put", dead=written)
def index_put(call: Call) -> list[Axes]:
    """x[i, :, j] = values: the values have the axes that x[i, :, j] would have."""
    data, shape = call.axes("self"), call.shape("self")
    indexed, refs, _ = _indexed(call)
    for d in indexed:
        call.freeze(data[d], _BY_NUMBER)
    for ref in refs:
        call.freeze_all(call.of(ref.value), "used as an index")
    values = call.axes("values")
    rest = [d for d in range(len(data)) if d not in indexed]
    adjacent = indexed == list(range(indexed[0], indexed[0] + len(indexed))) if indexed else True
    trailing = len([d for d in rest if indexed and d > indexed[0]]) if adjacent else len(rest)
    new = len(values) - len(rest)
    own = list(values)
    for position, d in enumerate(reversed(rest)):
        skipped = 0 if position < trailing else max(new, 0)
        number = len(values) - 1 - position - skipped
        if 0 <= number < len(values) and call.shape("values")[number] == shape[d] > 1 and new >= 0:
            call.tie(data[d], values[number])
            own[number] = None
    call.freeze_all(own, "written through an index")
    return [data]


def filled(call: DeadCall) -> Emissions:
    """Some places are overwritten by a number: zeros stay only among zeros."""
    held, number = call.of("self"), call.arg("value", 1)
    return worse(held if number == 0 else least(held, CONSTANT), LIVE, LIVE)


@register_op("aten.index_select", dead=picked)
@register_op("aten.index_fill_", "aten.index_fill", dead=filled)
def index_select(call: Call) -> list[Axes]:
    """Look up (or fill) whole slices along one axis."""
    data = call.axes("self")
    dim = call.dim()
    call.freeze(data[dim], _BY_NUMBER)
    call.freeze_all(call.axes("index"), "used as an index")
    return [tuple(None if d == dim else axis for d, axis in enumerate(data))]


@register_op("aten.gather", dead=picked)
def gather(call: Call) -> list[Axes]:
    """Look up along one axis, at a place of its own for every index of the other axes."""
    dim = call.dim()
    return [_beside(call, dim, "self", "index")]


@register_op("aten.scatter", "aten.scatter_", "aten.scatter_add", "aten.scatter_add_", "aten.scatter_reduce",
      "aten.scatter_reduce_", dead=written)  # fmt: skip
def scatter(call: Call) -> list[Axes]:
    """Write along one axis, at a place of its own for every index of the other axes."""
    data = call.axes("self")
    dim = call.dim()
    _beside(call, dim, "self", "index")
    if call.has("src"):
        _beside(call, dim, "self", "src")
        _beside(call, dim, "src", "index")
    return [data]


def _beside(call: Call, dim: int, first: str, second: str) -> Axes:
    """Two tensors that run side by side except along `dim`; return the axes that they share."""
    shared: list[Axis] = []
    a, b = call.axes(first), call.axes(second)
    for d, (n, m) in enumerate(zip(call.shape(first), call.shape(second), strict=True)):
        if d == dim or n != m:
            call.freeze(a[d], _BY_NUMBER)
            call.freeze(b[d], _BY_NUMBER)
            shared.append(None)
        else:
            if n > 1:
                call.tie(a[d], b[d])
            shared.append(a[d] if b[d] is not None else None)
    return tuple(shared)


@register_op("aten.index_add", "aten.index_add_", "aten.index_copy", "aten.index_copy_", "aten.index_reduce",
      "aten.index_reduce_", dead=written)  # fmt: skip
def index_add(call: Call) -> list[Axes]:
    """Write whole slices along one axis."""
    data, source = call.axes("self"), call.axes("source")
    dim = call.dim()
    call.freeze_all((data[dim], source[dim], *call.axes("index")), _BY_NUMBER)
    for d, size in enumerate(call.shape("self")):
        if d != dim and size > 1:
            call.tie(data[d], source[d])
    return [tuple(None if d == dim else axis for d, axis in enumerate(data))]


@register_op("aten.masked_scatter", "aten.masked_scatter_", dead=written)
def masked_scatter(call: Call) -> list[Axes]:
    """Entries of `source` are taken in order; where the mask picks whole rows, the last axis passes."""
    data, source = call.axes("self"), call.axes("source")
    last = call.shape("self")[-1]
    mask = call.values[call.value("mask")].data
    whole_rows = (
        mask is not None
        and call.shape("mask") == call.shape("self") == call.out_shape()
        and len(source) > 1
        and call.shape("source")[-1] == last > 1
        and (mask.stride(-1) == 0 or bool(mask.any() and (mask == mask[..., :1]).all()))
    )
    kept = 1 if whole_rows else 0
    for axes in (data, source, call.axes("mask")):
        call.freeze_all(axes[: len(axes) - kept], _BY_NUMBER)
    if not whole_rows:
        return [call.unlabelled()]
    call.tie(data[-1], source[-1])
    call.tie(data[-1], call.axes("mask")[-1])
    return [(*(None,) * (len(data) - 1), data[-1])]


@register_op(
    "aten.masked_select", "aten.nonzero", "aten.bincount", "aten.searchsorted", "aten.bucketize", "aten.take",
    "aten.put", "aten.put_", "aten._unique2", "aten.repeat_interleave",
    "aten.unique_dim", "aten.unique_consecutive",
    accepts_flattened=True,
)  # fmt: skip
def by_number(call: Call) -> list[Axes]:
    """Everything is addressed by number, so everything freezes."""
    for number in call.op.reads:
        call.freeze_all(call.of(number), _BY_NUMBER)
    return [call.unlabelled(i) for i in range(len(call.op.outputs))]
