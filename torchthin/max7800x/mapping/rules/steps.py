"""Steps that the layer in front does on the way out: activation, BatchNorm, products with and sums of constants."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, Literal

from torchthin.graph.operators import BATCH_NORMS
from torchthin.max7800x.mapping.feature_map import Features, Fold
from torchthin.max7800x.mapping.layer_builder import Unmappable
from torchthin.max7800x.mapping.registry import Call, maps

_LOWEST = (-1.0, None)
_HIGHEST = (1.0, 127 / 128, None)


@maps("aten.relu", "aten.relu_")
def relu(call: Call) -> Features:
    """ReLU."""
    return activated(call, "relu")


@maps("aten.abs", "aten.abs_")
def absolute(call: Call) -> Features:
    """Absolute value."""
    return activated(call, "abs")


@maps("aten.clamp", "aten.clamp_", "aten.hardtanh", "aten.hardtanh_")
def clamp(call: Call) -> Features:
    """The chip limits every output to its range; a lower limit of 0 alone is ReLU."""
    low, high = _limits(call)
    if low == 0 and high is None:
        return activated(call, "relu")
    if call.scopes.scales(call.op.source.module) or (low in _LOWEST and high in _HIGHEST):
        return call.features(call.argument("self"))
    raise Unmappable(f"limits {low} and {high}; the chip limits to -1 and 127/128, with ReLU to 0")


def _limits(call: Call) -> tuple[Any, Any]:
    if "hardtanh" in call.op.name:
        return call.argument("min_val", -1), call.argument("max_val", 1)
    return call.argument("min"), call.argument("max")


def activated(call: Call, kind: Literal["relu", "abs"]) -> Features:
    """Give the layer in front an activation. ReLU may stand behind max pooling, which it changes places with."""
    features = call.features(call.argument("self"))
    layer = call.draft.changeable(features)
    if layer is None or (features.pool is not None and kind == "abs"):
        raise Unmappable("an activation that does not follow a convolution or linear layer")
    if layer.activation == kind:
        return features
    if layer.activation is not None or layer.wide:
        raise Unmappable("a second activation, or one on outputs of 32 bits; a layer has one")
    return call.draft.change(features, replace(layer, activation=kind))


@maps(*BATCH_NORMS)
def batch_norm(call: Call) -> Features:
    """BatchNorm, folded into kernels and bias of the layer in front."""
    features = call.features(call.argument("input"))
    return _folded(call, features, "input", bias=True)


@maps("aten.mul", "aten.mul_", "aten.div", "aten.div_")
def scaled(call: Call) -> Features:
    """A product with a constant, folded into the layer in front."""
    return with_constant(call, bias=False)


@maps(
    "aten.round",
    "aten.floor",
    "aten.trunc",
    "aten.round_",
    "aten.floor_",
    "aten._to_copy",
    "aten.clone",
    "aten.alias",
    "aten.fake_quantize_per_tensor_affine",
    "aten.fake_quantize_per_tensor_affine_cachemask",
)
def rounding(call: Call) -> Features:
    """Rounding to the chip's grid, and copies: what the chip stores is that already."""
    return call.features(next(iter(call.op.inputs())))


def with_constant(call: Call, *, bias: bool) -> Features:
    """Fold a constant into the layer in front; in an ai8x layer it is how the chip stores numbers.

    Args:
        call: a product or sum.
        bias: the layer then has a bias.
    """
    maps_in = [name for name in ("self", "other") if call.is_map(name)]
    if len(maps_in) == 2:
        raise Unmappable(
            "a product of two feature maps; the chip adds, subtracts, and has bitwise xor and or"
        )
    features = call.features(call.argument(maps_in[0]))
    if call.scopes.scales(call.op.source.module):
        return features
    constant = call.argument("other" if maps_in[0] == "self" else "self")
    if not _per_channel(call, constant):
        raise Unmappable("with a constant for every pixel; one for each channel could be folded")
    if maps_in[0] == "other" and "div" in call.op.name:
        raise Unmappable("a division by a feature map")
    return _folded(call, features, maps_in[0], bias=bias)


def _per_channel(call: Call, constant: Any) -> bool:
    shape = call.shape(constant)
    rank = len(call.out_shape)
    return prod(shape) == 1 or (
        prod(shape) == call.out_shape[1] and len(shape) >= rank - 1 and shape[1 - rank] == call.out_shape[1]
    )


def _folded(call: Call, features: Features, data: str, *, bias: bool) -> Features:
    layer = call.draft.changeable(features)
    if layer is None or features.pool is not None or layer.activation is not None or layer.wide:
        raise Unmappable("not right behind a convolution or linear layer, so it cannot be folded into one")
    fold = Fold(call.op, data, call.scopes.layer(call.op.source.module) is not None)
    return call.draft.change(features, replace(layer, bias=layer.bias or bias), fold)
