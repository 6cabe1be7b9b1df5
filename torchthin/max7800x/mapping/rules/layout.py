"""Operators that compute nothing: changes of shape, and concatenation, which is a matter of where the parts are written."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torchthin.graph.operators import SQUEEZES, VIEWS
from torchthin.max7800x.mapping.feature_map import FeatureMap
from torchthin.max7800x.mapping.layer_builder import Unmappable
from torchthin.max7800x.mapping.registry import Call, maps


@maps(*VIEWS, *SQUEEZES)
def reshape(call: Call) -> FeatureMap:
    """A view that keeps channels, or joins all axes after the first: flattening, axes of size 1, sequences as images and back."""
    argument = call.argument("self")
    features, before, after = call.features(argument), call.shape(argument), call.out_shape
    if before[0] != after[0]:
        raise Unmappable("that changes the first axis; the chip computes one example at a time")
    if _without_ones(before) == _without_ones(after):
        return _turned(features, after)
    if len(after) == 2:
        return features if features.flat else replace(features, flat=features.pooled != (1, 1))
    if features.flat or len(after) not in (3, 4) or after[1] != features.channels:
        raise Unmappable("that mixes channels and pixels, other than flattening all")
    sequence = len(after) == 3
    plain = call.builder.materialize(features)
    return replace(plain, size=(after[2], 1 if sequence else after[3]), sequence=sequence)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] + tuple(size for size in shape[1:] if size != 1)


def _turned(features: FeatureMap, after: tuple[int, ...]) -> FeatureMap:
    """Axes of size 1 are added and removed around 1-d pooling, and after pooling to one pixel."""
    if features.pool is not None or features.flat:
        return features
    if len(after) == 4 and not features.sequence and prod(features.size) == prod(after[2:]):
        return replace(features, size=(after[2], after[3]))
    return features


@maps("aten.cat")
def concatenate(call: Call) -> FeatureMap:
    """Concatenation along the channels."""
    tensors = call.argument("tensors")
    rank = len(call.out_shape)
    if call.argument("dim", 0) % rank != 1:
        raise Unmappable("along another axis than the channels")
    if any(ref.value not in call.known for ref in tensors):
        raise Unmappable("with a constant")
    given = [call.features(ref) for ref in tensors]
    parts = [one if one.concatenated else call.builder.materialize(one) for one in given]
    sources = tuple(number for part in parts for number in part.sources)
    if len(set(sources)) < len(sources):
        raise Unmappable("of a feature map with itself")
    if any(part.size != parts[0].size or part.flat for part in parts):
        raise Unmappable("of flattened feature maps; concatenate before flattening")
    return replace(
        parts[0],
        sources=sources,
        versions=tuple(version for part in parts for version in part.versions),
        channels=sum(part.channels for part in parts),
        shared=False,
        where=call.path,
    )
