"""Indexing by tensors: what is looked up by number freezes, the other axes pass."""

from __future__ import annotations

from torchthin.labels.registry import Call, positive, rule
from torchthin.labels.rules.elementwise import broadcast
from torchthin.labels.space import Axes, Axis
from torchthin.trace.opgraph import Ref

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


@rule("aten.index", "aten._unsafe_index")
def index(call: Call) -> list[Axes]:
    """x[i, :, j]: indexed axes freeze; the index's own axes stand in their place (in front when they are apart)."""
    data = call.axes("self")
    indexed, refs, _ = _indexed(call)
    for d in indexed:
        call.freeze(data[d], _BY_NUMBER)
    for ref in refs:
        for axis in call.of(ref):
            call.freeze(axis, "used as an index")
    out = call.out_shape()
    new = len(out) - (len(data) - len(indexed))
    adjacent = indexed == list(range(indexed[0], indexed[0] + len(indexed))) if indexed else True
    front = indexed[0] if indexed and adjacent else 0
    rest = [axis for d, axis in enumerate(data) if d not in indexed]
    return [(*rest[:front], *(None,) * new, *rest[front:])]


@rule("aten.index_put", "aten.index_put_", "aten._index_put_impl_", "aten._unsafe_index_put")
def index_put(call: Call) -> list[Axes]:
    """x[i, :, j] = values."""
    data = call.axes("self")
    indexed, refs, _ = _indexed(call)
    for d in indexed:
        call.freeze(data[d], _BY_NUMBER)
    for ref in refs:
        for axis in call.of(ref):
            call.freeze(axis, "used as an index")
    rest = tuple(axis for d, axis in enumerate(data) if d not in indexed)
    sizes = tuple(n for d, n in enumerate(call.shape("self")) if d not in indexed)
    values, shape = call.axes("values"), call.shape("values")
    if not indexed or indexed[0] == 0:
        for a, b, n, m in zip(
            reversed(rest), reversed(values), reversed(sizes), reversed(shape), strict=False
        ):
            if n == m and n > 1:
                call.tie(a, b)
        return [data]
    for axis in (*rest, *values):
        call.freeze(axis, "written through an index")
    return [data]


@rule("aten.index_select", "aten.gather", "aten.take_along_dim", "aten.index_fill_", "aten.index_fill")
def gather(call: Call) -> list[Axes]:
    """Look up along one axis."""
    data = call.axes("self")
    dim = positive(int(call.arg("dim")), len(data))
    call.freeze(data[dim], _BY_NUMBER)
    if call.op.name != "aten.gather":
        return [tuple(None if d == dim else axis for d, axis in enumerate(data))]
    picks, sizes = call.axes("index"), call.shape("index")
    return [tuple(_kept(call, d == dim, a, b, n, m) for d, (a, b, n, m) in enumerate(
        zip(data, picks, call.shape("self"), sizes, strict=True)))]  # fmt: skip


def _kept(call: Call, looked_up: bool, axis: Axis, pick: Axis, size: int, picked: int) -> Axis:
    if looked_up or size != picked:
        call.freeze(axis, _BY_NUMBER)
        call.freeze(pick, "used as an index")
        return None
    if size > 1:
        call.tie(axis, pick)
    return axis if pick is not None else None


@rule("aten.scatter", "aten.scatter_", "aten.scatter_add", "aten.scatter_add_", "aten.scatter_reduce",
      "aten.scatter_reduce_", "aten.index_add", "aten.index_add_", "aten.index_copy", "aten.index_copy_",
      "aten.masked_select", "aten.masked_scatter", "aten.nonzero", "aten.bincount", "aten.one_hot",
      "aten.searchsorted", "aten.bucketize", "aten.take",
      accepts_merged=True)  # fmt: skip
def by_number(call: Call) -> list[Axes]:
    """Everything is addressed by number, so everything freezes."""
    for ref in call.op.inputs():
        for axis in call.of(ref):
            call.freeze(axis, _BY_NUMBER)
    return [(None,) * len(call.out_shape(i)) for i in range(len(call.op.outputs))]


@rule("aten.meshgrid")
def meshgrid(call: Call) -> list[Axes]:
    """Each vector spans one axis."""
    vectors = [call.of(ref)[0] if call.of(ref) else None for ref in call.arg("tensors")]
    return [tuple(vectors) for _ in call.op.outputs]


@rule("aten.broadcast_to")
def broadcast_to(call: Call) -> list[Axes]:
    """Like expand."""
    return [broadcast(call, [(call.shape("self"), call.axes("self"))], call.out_shape())]
