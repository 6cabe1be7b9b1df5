"""Element-wise operators: what the layer before does on the way out, and operations on two feature maps on the way in."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, Literal

from torchthin.graph.operators import BATCH_NORMS
from torchthin.max7800x.cost.layer import Eltwise
from torchthin.max7800x.mapping.feature_map import Absorbed, FeatureMap
from torchthin.max7800x.mapping.layer_builder import Unmappable
from torchthin.max7800x.mapping.registry import Call, maps

_LOWEST = (-1.0, None)
_HIGHEST = (1.0, 127 / 128, None)
_ELTWISE: dict[str, Eltwise] = {"add": "add", "sub": "sub", "bitwise_xor": "xor", "bitwise_or": "or"}


@maps("aten.relu", "aten.relu_")
def relu(call: Call) -> FeatureMap:
    """ReLU."""
    return _activated(call, "relu")


@maps("aten.abs", "aten.abs_")
def absolute(call: Call) -> FeatureMap:
    """Absolute value."""
    return _activated(call, "abs")


@maps("aten.clamp", "aten.clamp_", "aten.hardtanh", "aten.hardtanh_")
def clamp(call: Call) -> FeatureMap:
    """The chip limits every output to its range; a lower limit of 0 alone is ReLU."""
    if "hardtanh" in call.op.name:
        low, high = call.argument("min_val", -1), call.argument("max_val", 1)
    else:
        low, high = call.argument("min"), call.argument("max")
    if low == 0 and high is None:
        return _activated(call, "relu")
    if call.settings.scales(call.module) or (low in _LOWEST and high in _HIGHEST):
        return call.features(call.argument("self"))
    raise Unmappable(f"limits {low} and {high}; the chip limits to -1 and 127/128, with ReLU to 0")


def _activated(call: Call, kind: Literal["relu", "abs"]) -> FeatureMap:
    """Give the layer before an activation. ReLU may follow max pooling, since the two can be exchanged."""
    features = call.features(call.argument("self"))
    layer = call.builder.changeable(features)
    if layer is None or (features.pool is not None and kind == "abs"):
        raise Unmappable("an activation that does not follow a convolution or linear layer")
    if layer.activation == kind:
        return features
    if layer.activation is not None or layer.wide:
        raise Unmappable("a second activation, or one on outputs of 32 bits; a layer has one")
    return call.builder.change(features, replace(layer, activation=kind))


@maps(*BATCH_NORMS)
def batch_norm(call: Call) -> FeatureMap:
    """BatchNorm, folded into kernels and bias of the layer before."""
    return _absorbed(call, "input", bias=True)


@maps("aten.mul", "aten.mul_", "aten.div", "aten.div_")
def scaled(call: Call) -> FeatureMap:
    """A product with a constant, absorbed by the layer before."""
    return _with_constant(call, bias=False)


@maps(
    *("aten.round", "aten.floor", "aten.trunc", "aten.round_", "aten.floor_"),
    *("aten._to_copy", "aten.clone", "aten.alias"),
    *("aten.fake_quantize_per_tensor_affine", "aten.fake_quantize_per_tensor_affine_cachemask"),
)
def rounding(call: Call) -> FeatureMap:
    """Rounding to the chip's grid, and copies: what the chip stores is that already."""
    return call.features(call.argument("self"))


@maps("aten.gt", "aten.ceil")
def half_of_truncation(call: Call) -> FeatureMap:
    """A comparison or rounding of which ``where`` makes truncation, in an ai8x layer; the chip has neither for itself."""
    if not call.settings.scales(call.module):
        raise Unmappable("the chip has no such operation")
    return call.features(call.argument("self"))


@maps("aten.where")
def truncation(call: Call) -> FeatureMap:
    """``where(x > 0, floor(x), ceil(x))`` in an ai8x layer: average pooling cuts off what is below the chip's grid."""
    names = ("condition", "self", "other")
    if not (call.settings.scales(call.module) and all(call.is_map(name) for name in names)):
        raise Unmappable("a choice between values; the chip has no such operation")
    condition, positive, negative = (call.features(call.argument(name)) for name in names)
    if not condition == positive == negative:
        raise Unmappable("a choice between values; the chip has no such operation")
    return positive


@maps("aten.add", "aten.add_", "aten.sub", "aten.sub_", "aten.bitwise_xor", "aten.bitwise_or")
def combine(call: Call) -> FeatureMap:
    """Sum, difference, xor, or; a sum with a constant is absorbed by the layer before."""
    if not (call.is_map("self") and call.is_map("other")):
        return _with_constant(call, bias=True)
    if call.argument("alpha", 1) != 1:
        raise Unmappable("with a factor; the chip adds and subtracts without")
    kind = _ELTWISE[call.op.name.removeprefix("aten.").rstrip("_")]
    first, second = (call.features(call.argument(name)) for name in ("self", "other"))
    if kind == "add" and second.negated:
        kind, second = "sub", replace(second, negated=False)
    if call.shape(call.argument("self")) != call.shape(call.argument("other")) or first.flat != second.flat:
        raise Unmappable("of feature maps of different shapes")
    return _combined(call, kind, first, second)


@maps("aten.neg")
def negated(call: Call) -> FeatureMap:
    """A negation, which a sum after it makes a difference."""
    return replace(call.features(call.argument("self")), negated=True)


def _combined(call: Call, kind: Eltwise, first: FeatureMap, second: FeatureMap) -> FeatureMap:
    chained = kind != "sub" and first.eltwise == kind and first.pool is None and not first.shared
    pool = first.pool if first.pool == second.pool and not (first.shared or second.shared) else None
    if pool is not None and len(first.sources) == len(second.sources) == 1:
        parts = [replace(first, pool=None), replace(second, pool=None)]  # both are pooled, then combined
    else:
        pool = None
        materialize = call.builder.materialize
        parts = [first if chained else materialize(first), materialize(second)]
    return replace(
        parts[0],
        sources=tuple(number for part in parts for number in part.sources),
        versions=tuple(version for part in parts for version in part.versions),
        eltwise=kind,
        pool=pool,
        shared=False,
        where=call.path,
    )


def _with_constant(call: Call, *, bias: bool) -> FeatureMap:
    """Let the layer before absorb a constant; in an ai8x layer it is how the chip stores numbers.

    Args:
        call: a product or sum.
        bias: the layer then has a bias.
    """
    maps_in = [name for name in ("self", "other") if call.is_map(name)]
    if len(maps_in) == 2:
        raise Unmappable(
            "a product of two feature maps; the chip adds, subtracts, and has bitwise xor and or"
        )
    data = maps_in[0]
    features = call.features(call.argument(data))
    if call.settings.scales(call.module):
        return features
    if not _per_channel(call, call.argument("other" if data == "self" else "self")):
        raise Unmappable("with a constant for every pixel; a layer can absorb one for each channel")
    if data == "other" and "div" in call.op.name:
        raise Unmappable("a division by a feature map")
    return _absorbed(call, data, bias=bias)


def _per_channel(call: Call, constant: Any) -> bool:
    shape = call.shape(constant)
    rank = len(call.out_shape)
    return prod(shape) == 1 or (
        prod(shape) == call.out_shape[1] and len(shape) >= rank - 1 and shape[1 - rank] == call.out_shape[1]
    )


def _absorbed(call: Call, data: str, *, bias: bool) -> FeatureMap:
    """Let the layer that writes the argument `data` take in the operator."""
    features = call.features(call.argument(data))
    layer = call.builder.changeable(features)
    if layer is None or features.pool is not None or layer.activation is not None or layer.wide:
        raise Unmappable("not directly after a convolution or linear layer, so no layer can absorb it")
    absorbed = Absorbed(call.op, data, call.settings.layer(call.module) is not None)
    return call.builder.change(features, replace(layer, bias=layer.bias or bias), absorbed)
