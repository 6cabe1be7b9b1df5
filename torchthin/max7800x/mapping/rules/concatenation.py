"""Concatenation of channels: a matter of where the parts are written."""

from __future__ import annotations

from dataclasses import replace

from torchthin.max7800x.mapping.feature_map import Features
from torchthin.max7800x.mapping.layer_builder import Unmappable
from torchthin.max7800x.mapping.registry import Call, maps


@maps("aten.cat")
def concatenate(call: Call) -> Features:
    """Concatenation along the channels."""
    tensors = call.argument("tensors")
    rank = len(call.out_shape)
    if call.argument("dim", 0) % rank != 1:
        raise Unmappable("along another axis than the channels")
    if any(ref.value not in call.known for ref in tensors):
        raise Unmappable("with a constant")
    parts = [_part(call, call.features(ref)) for ref in tensors]
    sources = tuple(number for part in parts for number in part.sources)
    if len(set(sources)) < len(sources):
        raise Unmappable("of a feature map with itself")
    if any(part.size != parts[0].size or part.flat for part in parts):
        raise Unmappable("of flattened feature maps; concatenate before flattening")
    versions = tuple(version for part in parts for version in part.versions)
    channels = sum(part.channels for part in parts)
    return replace(
        parts[0], sources=sources, versions=versions, channels=channels, shared=False, where=call.path
    )


def _part(call: Call, features: Features) -> Features:
    """A concatenation is taken apart, everything else that is pending is done first."""
    joined = len(features.sources) > 1 and features.eltwise is None and features.pool is None
    return features if joined else call.draft.settle(features)
