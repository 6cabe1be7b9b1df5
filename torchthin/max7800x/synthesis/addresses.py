"""Where each layer reads and writes in data memory, as a network description says it.

Operands of an element-wise operation lie word by word between each other: each is written with a gap for the others, the i-th
of them 4 bytes further on. Parts of a concatenation that takes several passes lie in the same way, one part for each pass. Parts
that fit one pass lie side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchthin.errors import InputError
from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.layer import INPUT, Layer, passes
from torchthin.max7800x.cost.network import LayerCost, NetworkCost

_WORD = 4


@dataclass(frozen=True)
class Address:
    """Where one layer reads and writes."""

    in_offset: int
    """Bytes into data memory."""
    out_offset: int
    read_gap: int
    """Words to skip after each word read."""
    write_gap: int
    """Words to leave free after each word written."""


@dataclass(frozen=True)
class _Interleaved:
    """How a map lies between others: words that are free after each of its own, and its place among them."""

    gap: int
    position: int


def addresses(
    layers: Sequence[Layer], cost: NetworkCost, chip: ChipSpec, outputs: Sequence[int]
) -> tuple[Address, ...]:
    """Return the addresses of every layer, of a network that fits.

    Raises:
        InputError: a map would have to lie in two ways, or an output of the network is overwritten.
    """
    interleaved: dict[int, _Interleaved] = {}
    for layer in layers:
        gap = _gap(layer, layers, chip)
        for position, source in enumerate(layer.sources):
            if len(layer.sources) > 1 and source == INPUT:
                raise InputError(
                    f"{layer.name}: it joins the network's input with another map, which the chip's tool cannot; put a "
                    "convolution before it."
                )
            wanted = _Interleaved(gap, position)
            if gap and interleaved.setdefault(source, wanted) != wanted:
                raise InputError(
                    f"{layers[source].name}: two layers read it in gaps of different kinds; copy it by a layer of its own."
                )
    _check_outputs(layers, cost, outputs, interleaved, chip)
    return tuple(
        _address(number, layer, row, interleaved, chip)
        for number, (layer, row) in enumerate(zip(layers, cost.layers, strict=True))
    )


def _gap(layer: Layer, layers: Sequence[Layer], chip: ChipSpec) -> int:
    """Return the words that each source of `layer` leaves free."""
    if layer.operands > 1:
        return layer.operands - 1
    count, each = passes(layer.in_channels, chip)
    if len(layer.sources) == 1 or count == 1:
        return 0
    widths = [layers[source].out_channels for source in layer.sources if source != INPUT]
    if len(layer.sources) != count or any(width != each for width in widths):
        raise InputError(
            f"{layer.name}: concatenates {' + '.join(map(str, widths))} channels, in {count} passes of {each}; beyond "
            f"{chip.processors} channels there must be one part for each pass."
        )
    return count - 1


def _address(
    number: int, layer: Layer, row: LayerCost, interleaved: Mapping[int, _Interleaved], chip: ChipSpec
) -> Address:
    mine = interleaved.get(number, _Interleaved(0, 0))
    out_offset = row.output_offset + _WORD * mine.position
    first = interleaved.get(layer.sources[0])
    if first is None or len(layer.sources) > 1:
        return Address(row.input_offset, out_offset, 0, mine.gap)
    if not chip.reads_gaps or row.input_passes > 1:
        raise InputError(
            f"{layer.name}: it reads a map that lies in gaps for another layer, which {chip.name} cannot"
            f"{' in several passes' if chip.reads_gaps else ''}; copy that map by a layer of its own."
        )
    return Address(row.input_offset + _WORD * first.position, out_offset, first.gap, mine.gap)


def _check_outputs(
    layers: Sequence[Layer],
    cost: NetworkCost,
    outputs: Sequence[int],
    interleaved: Mapping[int, _Interleaved],
    chip: ChipSpec,
) -> None:
    """Refuse a network in which a map that is an output, and read as well, is overwritten by a later layer."""
    for number in outputs:
        if number in interleaved:
            raise InputError(
                f"{layers[number].name}: an output of the network that lies in gaps for another layer; copy it by a layer."
            )
        mine = _written(cost.layers[number], chip)
        over = [row.name for row in cost.layers[number + 1 :] if _overlap(mine, _written(row, chip))]
        if over:
            raise InputError(
                f"{layers[number].name}: an output of the network that {over[0]} overwrites, since another layer reads it "
                "too; let the network return it by a layer of its own."
            )


_Area = tuple[range, range]
"""Data memories and bytes."""


def _written(row: LayerCost, chip: ChipSpec) -> _Area:
    per = chip.processors_per_memory
    last = row.output_processor + passes(row.out_channels, chip)[1] - 1
    memories = range(row.output_processor // per, last // per + 1)
    return memories, range(row.output_offset, row.output_offset + row.output_bytes)


def _overlap(one: _Area, other: _Area) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))
