"""First layers that stream: they read and write a few rows at a time, and their maps never lie in data memory whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.data_memory import MapPlace, place_maps
from torchthin.max7800x.cost.layer import Layer, passes

MOST_STREAMING = 8
"""Layers that ai8xize.py streams at most."""
STREAMING_CYCLES = 1.5
"""Times what a layer takes that does not stream, by the tool's estimate."""


def streaming_layers(layers: Sequence[Layer], chip: ChipSpec) -> int | None:
    """Return the least number of first layers with which, when they stream, all other maps fit; None: there is none."""
    for count in range(1, min(MOST_STREAMING, len(layers) - 1) + 1):
        if can_stream(layers, count) and not place_streamed_maps(layers, chip, count)[1]:
            return count
    return None


def can_stream(layers: Sequence[Layer], count: int) -> bool:
    """Whether so many first layers are a chain from the input, number -1, and of their maps only the last is read later."""
    chain = all(layer.sources == (number - 1,) for number, layer in enumerate(layers[:count]))
    later = (source for layer in layers[count:] for source in layer.sources)
    return chain and count < len(layers) and all(source >= count - 1 for source in later)


def place_streamed_maps(
    layers: Sequence[Layer], chip: ChipSpec, streaming: int
) -> tuple[dict[int, MapPlace], tuple[str, ...]]:
    """Return what `place_maps` returns, with rolling buffers, which take no place here, for what the first layers read."""
    rest, problems = place_maps(
        _alone(layers[streaming:], streaming), chip, before=layers[streaming - 1].name
    )
    buffers = {
        number - 1: MapPlace(0, passes(layers[number].in_channels, chip)[1], 1, 0, 0)
        for number in range(streaming)
    }
    return {**buffers, **{number + streaming: place for number, place in rest.items()}}, problems


def _alone(layers: Sequence[Layer], first: int) -> list[Layer]:
    """Return layers from number `first` on as a network of their own."""
    return [replace(layer, sources=tuple(source - first for source in layer.sources)) for layer in layers]
