"""Where biases lie: those of one layer in one quadrant's memory, each layer in the quadrant that has most room, largest first."""

from __future__ import annotations

from collections.abc import Sequence

from torchthin.chips.chip import Chip
from torchthin.chips.layer import Layer
from torchthin.chips.words import bias_bytes, passes


def place_biases(
    layers: Sequence[Layer], processors: Sequence[Sequence[int]], quadrants: Sequence[int], chip: Chip
) -> tuple[int, tuple[str, ...]]:
    """Return the bytes used in all quadrants together, and what did not fit, in words.

    Args:
        layers: a network.
        processors: of each layer.
        quadrants: those that the network uses.
        chip: where it runs.
    """
    used = dict.fromkeys(quadrants, 0)
    problems = []
    movable = []
    for layer, numbers in zip(layers, processors, strict=True):
        if not bias_bytes(layer):
            continue
        if not layer.depthwise:
            movable.append(layer)
            continue
        count, _ = passes(layer.out_channels, chip)
        for number in numbers:
            used[number // chip.processors_per_quadrant] += count
    for layer in sorted(movable, key=lambda one: _rank(one, chip)):
        roomiest = min(used, key=lambda quadrant: used[quadrant])
        if used[roomiest] + bias_bytes(layer) > chip.bias_bytes:
            problems.append(
                f"{layer.name}: {bias_bytes(layer)} biases; the roomiest of {len(used)} quadrants has "
                f"{chip.bias_bytes - used[roomiest]} of {chip.bias_bytes} bytes left, train layers without bias"
            )
        used[roomiest] += bias_bytes(layer)
    return sum(used.values()), tuple(problems)


def _rank(layer: Layer, chip: Chip) -> int:
    return -1 if chip.flatten_bias_first and layer.flatten else chip.bias_bytes - bias_bytes(layer)
