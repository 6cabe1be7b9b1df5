"""Changes of shape: flattening, axes of size 1, sequences as images and back."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torchthin.graph.operators import SQUEEZES, VIEWS
from torchthin.max7800x.mapping.feature_map import Features
from torchthin.max7800x.mapping.layer_builder import Unmappable
from torchthin.max7800x.mapping.registry import Call, maps


@maps(*VIEWS, *SQUEEZES)
def reshape(call: Call) -> Features:
    """A view that keeps channels, or joins all axes behind the first."""
    features = call.features(next(iter(call.op.inputs())))
    before, after = call.shape(next(iter(call.op.inputs()))), call.out_shape
    if before[0] != after[0]:
        raise Unmappable("that changes the first axis; the chip computes one example at a time")
    if _without_ones(before) == _without_ones(after):
        return _turned(features, after)
    if len(after) == 2:
        return features if features.flat else _flattened(features)
    if features.flat or len(after) not in (3, 4) or after[1] != features.channels:
        raise Unmappable("that mixes channels and pixels, other than flattening all")
    plain = call.draft.settle(features) if not features.plain else features
    sequence = len(after) == 3
    return replace(plain, size=(after[2], 1 if sequence else after[3]), sequence=sequence)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] + tuple(size for size in shape[1:] if size != 1)


def _turned(features: Features, after: tuple[int, ...]) -> Features:
    """Axes of size 1 come and go: around 1-d pooling, and behind pooling to one pixel."""
    if features.pool is not None or features.flat:
        return features
    if len(after) == 4 and not features.sequence and prod(features.size) == prod(after[2:]):
        return replace(features, size=(after[2], after[3]))
    return features


def _flattened(features: Features) -> Features:
    return replace(features, flat=features.pooled != (1, 1))
