"""Element-wise operations on two feature maps: done on the way into the next layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torchthin.max7800x.mapping.feature_map import Features
from torchthin.max7800x.mapping.layer_builder import Unmappable
from torchthin.max7800x.mapping.registry import Call, maps
from torchthin.max7800x.mapping.rules.steps import with_constant

Kind = Literal["add", "sub", "xor", "or"]
_NAMES: dict[str, Kind] = {"add": "add", "sub": "sub", "bitwise_xor": "xor", "bitwise_or": "or"}


@maps(
    "aten.add",
    "aten.add_",
    "aten.sub",
    "aten.sub_",
    "aten.bitwise_xor",
    "aten.bitwise_or",
)
def combine(call: Call) -> Features:
    """Sum, difference, xor, or; a sum with a constant is folded into the layer in front."""
    if not (call.is_map("self") and call.is_map("other")):
        return with_constant(call, bias=True)
    if call.argument("alpha", 1) != 1:
        raise Unmappable("with a factor; the chip adds and subtracts without")
    kind = _NAMES[call.op.name.removeprefix("aten.").rstrip("_")]
    first, second = (call.features(call.argument(name)) for name in ("self", "other"))
    if kind == "add" and second.negated:
        kind, second = "sub", replace(second, negated=False)
    if call.shape(call.argument("self")) != call.shape(call.argument("other")) or first.flat != second.flat:
        raise Unmappable("of feature maps of different shapes")
    return _combined(call, kind, first, second)


@maps("aten.neg")
def negated(call: Call) -> Features:
    """A negation, which a sum behind it makes a difference."""
    return replace(call.features(call.argument("self")), negated=True)


def _combined(call: Call, kind: Kind, first: Features, second: Features) -> Features:
    chained = kind != "sub" and first.eltwise == kind and first.pool is None and not first.shared
    pool = first.pool if first.pool == second.pool and not (first.shared or second.shared) else None
    if pool is not None and len(first.sources) == len(second.sources) == 1:
        parts = [replace(first, pool=None), replace(second, pool=None)]  # both are pooled, then combined
    else:
        pool = None
        parts = [first if chained else call.draft.settle(first), call.draft.settle(second)]
    sources = tuple(number for part in parts for number in part.sources)
    versions = tuple(version for part in parts for version in part.versions)
    joined = replace(parts[0], sources=sources, versions=versions, eltwise=kind, pool=pool, shared=False)
    return replace(joined, where=call.path)
