"""Where biases lie: those of one layer in one quadrant's memory, each layer in the quadrant that has most room, largest first."""

from __future__ import annotations

from collections.abc import Sequence

from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.layer import Layer
from torchthin.max7800x.cost.words import bias_bytes, passes, up


def place_biases(
    layers: Sequence[Layer],
    processors: Sequence[Sequence[int]],
    outputs: Sequence[int],
    quadrants: Sequence[int],
    chip: Chip,
) -> tuple[int, tuple[str, ...]]:
    """Return the bytes used in all quadrants together, and what did not fit, in words.

    Args:
        layers: a network.
        processors: that read each layer's input.
        outputs: first processor that each layer's output is written for.
        quadrants: those that the network uses.
        chip: where it runs.
    """
    used = dict.fromkeys(quadrants, 0)
    problems = []
    movable = []
    for layer, numbers, output in zip(layers, processors, outputs, strict=True):
        if not bias_bytes(layer) or layer.shares is not None:
            continue
        if not layer.depthwise:
            movable.append(layer)
            continue
        _place_depthwise(used, numbers, passes(layer.out_channels, chip)[0], numbers[0] == output, chip)
    for layer in sorted(movable, key=lambda one: _rank(one, chip)):
        roomiest = min(used, key=lambda quadrant: used[quadrant])
        if used[roomiest] + bias_bytes(layer) > chip.bias_bytes:
            problems.append(
                f"{layer.name}: {bias_bytes(layer)} biases; the roomiest of {len(used)} quadrants has "
                f"{chip.bias_bytes - used[roomiest]} of {chip.bias_bytes} bytes left, train layers without bias"
            )
        used[roomiest] += bias_bytes(layer)
    return sum(used.values()), tuple(problems)


def _place_depthwise(
    used: dict[int, int], processors: Sequence[int], count: int, in_place: bool, chip: Chip
) -> None:
    """Add the biases of a depthwise layer, in `count` passes: each quadrant needs those of its own channels.

    Where channels stay at their processors, four data memories are read at once: biases start at a multiple of 4 and lie in
    their order, channel 0, 4, 8, 12, 1, ..., so that gaps stand for the channels that a quadrant lacks.
    """
    width, step = chip.processors_per_quadrant, chip.processors_per_memory
    for quadrant in sorted({number // width for number in processors}):
        mine = [number % width for number in processors if number // width == quadrant]
        if not in_place:
            used[quadrant] += count * len(mine)
            continue
        last = max(place for place in range(width) if place % step * step + place // step in mine)
        used[quadrant] = up(used[quadrant], step) + (count - 1) * width + last + 1


def _rank(layer: Layer, chip: Chip) -> int:
    return -1 if chip.flatten_bias_first and layer.flatten else chip.bias_bytes - bias_bytes(layer)
