"""Copies in front of element-wise operations.

Operands of an element-wise operation lie pixel by pixel between each other, so whoever makes one leaves gaps. A map that another
layer reads as well must be there a second time, without gaps: a layer that only copies makes the one with gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.layer import INPUT, Layer


def with_copies(layers: Sequence[Layer], chip: Chip) -> tuple[tuple[Layer, ...], tuple[int | None, ...]]:
    """Return the layers with the copies that `chip` needs, and for each the number it had (None: a copy)."""
    found: list[Layer] = []
    origin: list[int | None] = []
    place = {INPUT: INPUT}
    copies: dict[tuple[int, int], int] = {}  # (map, layer that reads it as an operand) -> copy

    def copy_for_operations(number: int) -> None:
        for reader in _needing_copies(number, layers, chip):
            copies[number, reader] = len(found)
            found.append(_copy(number, layers, reader, place[number]))
            origin.append(None)

    copy_for_operations(INPUT)
    for number, layer in enumerate(layers):
        sources = tuple(copies.get((source, number), place[source]) for source in layer.sources)
        place[number] = len(found)
        shares = None if layer.shares is None else place[layer.shares]
        found.append(replace(layer, sources=sources, shares=shares))
        origin.append(number)
        copy_for_operations(number)
    return tuple(found), tuple(origin)


def _needing_copies(number: int, layers: Sequence[Layer], chip: Chip) -> list[int]:
    """Return the layers that need the map of layer `number` as an operand of their own."""
    readers = [reader for reader, layer in enumerate(layers) if number in layer.sources]
    operations = [reader for reader in readers if layers[reader].operands > 1]
    if len(readers) < 2 or not operations:
        return []
    if chip.reads_gaps and layers[operations[0]].in_channels <= chip.processors:
        return operations[1:]  # the others read over the gaps of the first
    return operations if len(operations) < len(readers) else operations[1:]


def _copy(number: int, layers: Sequence[Layer], reader: int, source: int) -> Layer:
    like = layers[reader]
    name = "the input" if number == INPUT else layers[number].name
    return Layer(
        name=f"copy of {name}",
        kind="passthrough",
        in_channels=like.in_channels,
        out_channels=like.in_channels,
        in_size=like.in_size,
        bias=False,
        sources=(source,),
    )
