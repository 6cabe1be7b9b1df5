"""Reductions: labels of reduced axes vanish; a result that depends on how many there were is marked."""

from __future__ import annotations

from torchthin.labels.registry import Call, positive, rule
from torchthin.labels.rules.elementwise import elementwise
from torchthin.labels.space import Axes


@rule(
    "aten.sum", "aten.mean", "aten.amax", "aten.amin", "aten.max", "aten.min", "aten.prod", "aten.var", "aten.std",
    "aten.var_mean", "aten.std_mean", "aten.linalg_vector_norm", "aten.norm", "aten.logsumexp", "aten.any", "aten.all",
    "aten.argmax", "aten.argmin", "aten.median", "aten.nanmean", "aten.aminmax", "aten.frobenius_norm", "aten.nansum",
    accepts_merged=True,
)  # fmt: skip
def reduction(call: Call) -> list[Axes]:
    """Reduce over the argument `dim` (all axes when it is left out)."""
    if call.op.name in {"aten.max", "aten.min"} and call.has("other"):
        return elementwise(call)
    data = call.axes("self")
    given = call.arg("dim")
    rank = len(data)
    listed = [given] if isinstance(given, int) else list(given or ())
    dims = {positive(d, rank) for d in listed} or set(range(rank))
    if any(data[d] is not None for d in dims):
        call.statistics = True
        if call.op.name in {"aten.argmax", "aten.argmin"}:
            for d in dims:
                call.freeze(data[d], "a position along the axis is read")
    keep = bool(call.arg("keepdim", False))
    axes = tuple(None if d in dims else axis for d, axis in enumerate(data) if keep or d not in dims)
    return [axes if len(call.out_shape(i)) == len(axes) else () for i in range(len(call.op.outputs))]


@rule("aten.cumsum", "aten.cumprod", "aten.sort", "aten.argsort", "aten.topk", "aten.kthvalue", "aten.logcumsumexp",
      accepts_merged=True)  # fmt: skip
def along_one_axis(call: Call) -> list[Axes]:
    """The order along `dim` matters: its labels freeze."""
    data = call.axes("self")
    if not data:
        return [() for _ in call.op.outputs]
    dim = positive(int(call.arg("dim", -1)), len(data))
    call.freeze(data[dim], "the order along the axis matters")
    axes = tuple(None if d == dim else axis for d, axis in enumerate(data))
    drop = call.op.name == "aten.kthvalue" and not call.arg("keepdim", False)
    if drop:
        axes = tuple(axis for d, axis in enumerate(axes) if d != dim)
    return [axes for _ in call.op.outputs]
