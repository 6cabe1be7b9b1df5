"""Where feature maps lie in data memory.

A data memory holds four neighbouring channels, pixel by pixel (HWC); in CHW form, for the network's input only, one channel.
A map lies at the same offset in all memories it touches, from its maker to its last reader, and may start at any fourth
processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.layer import INPUT, Layer, Size
from torchthin.max7800x.cost.words import passes

_CHANNELS_PER_WORD = 4
_WIDE_FACTOR = 4


@dataclass(frozen=True)
class FeatureMap:
    """The input of a network or the output of a layer, where it lies."""

    first_processor: int
    processors: int
    processor_step: int
    """4 in CHW form: one channel for each memory."""
    offset: int
    size: int
    """Bytes in each memory that it touches."""

    @property
    def processor_numbers(self) -> range:
        """The processors that read it."""
        return range(
            self.first_processor,
            self.first_processor + self.processors * self.processor_step,
            self.processor_step,
        )


@dataclass(frozen=True)
class Block:
    """What must lie together: a map, the operands of an element-wise operation, or the parts of a concatenation."""

    maps: tuple[int, ...]
    """Numbers of the layers that make them, in order."""
    processors: int
    size: int
    """Bytes in each memory."""
    born: int
    dies: int
    """Number of the last layer that reads one of them."""


def map_bytes(channels: int, size: Size, chip: Chip, *, wide: bool = False, planar: bool = False) -> int:
    """Return the bytes that a feature map takes in each data memory it touches; `planar`: in CHW form."""
    per_pixel = 1 if planar else _CHANNELS_PER_WORD
    return size[0] * size[1] * passes(channels, chip)[0] * per_pixel * (_WIDE_FACTOR if wide else 1)


def place_maps(
    layers: Sequence[Layer], chip: Chip, wanted: Mapping[int, int] | None = None
) -> tuple[dict[int, FeatureMap], tuple[str, ...]]:
    """Give every feature map its place: first fit in the order in which they are made.

    Args:
        layers: a network.
        chip: where it runs.
        wanted: first map of a block -> first processor to try before all others, which come in order.

    Returns:
        Layer number (`INPUT` for the network's input) -> place, and what did not fit, in words. A map that did not fit
        stands at offset 0.
    """
    placed: list[tuple[Block, FeatureMap]] = []
    found: dict[int, FeatureMap] = {}
    problems = []
    for block in blocks(layers, chip):
        starts = _starts(block, layers, chip, found, (wanted or {}).get(block.maps[0], 0))
        spot = _find(block, placed, chip, starts)
        if spot is None and block.maps == (INPUT,):
            block, spot = _planar(block, layers[0], placed, chip)
        if spot is None:
            problems.append(_refusal(block, layers, chip))
            spot = FeatureMap(0, block.processors, 1, 0, block.size)
        placed.append((block, spot))
        found.update(_parts(block, spot, layers))
    return found, tuple(problems)


def _out(layers: Sequence[Layer], number: int) -> tuple[int, Size, bool]:
    if number == INPUT:
        reader = next(layer for layer in layers if INPUT in layer.sources)
        return reader.in_channels, reader.in_size, False
    return layers[number].out_channels, layers[number].out_size, layers[number].wide


def blocks(layers: Sequence[Layer], chip: Chip) -> list[Block]:
    """Return what must lie together, in the order in which the first map of each is made."""
    home = {number: {number} for number in range(INPUT, len(layers))}
    for layer in layers:
        joined = set().union(*(home[source] for source in layer.sources))
        for number in joined:
            home[number] = joined
    last = dict.fromkeys(home, len(layers))  # what nobody reads is an output, and stays
    for number, layer in enumerate(layers):
        for source in layer.sources:
            last[source] = number if last[source] == len(layers) else max(number, last[source])
    read = {source for layer in layers for source in layer.sources}
    found = []
    for number, members in home.items():
        if number == min(members) and (number != INPUT or INPUT in read):
            maps = tuple(sorted(members))
            found.append(_block(maps, layers, chip, max(last[one] for one in maps)))
    return found


def _block(maps: tuple[int, ...], layers: Sequence[Layer], chip: Chip, dies: int) -> Block:
    readers = {
        (layer.sources, layer.operands): layer
        for layer in layers
        if len(layer.sources) > 1 and set(layer.sources) <= set(maps)
    }
    if not readers:
        channels, size, wide = _out(layers, maps[0])
        return Block(
            maps, passes(channels, chip)[1], map_bytes(channels, size, chip, wide=wide), maps[0], dies
        )
    sizes = [map_bytes(layer.in_channels, layer.in_size, chip) * layer.operands for layer in readers.values()]
    processors = max(passes(layer.in_channels, chip)[1] for layer in readers.values())
    return Block(maps, processors, sum(sizes), maps[0], dies)


def _starts(
    block: Block, layers: Sequence[Layer], chip: Chip, found: Mapping[int, FeatureMap], wanted: int
) -> Iterable[int]:
    """Return the processors at which a block may start, those to try first in front.

    A layer without kernels passes every channel on to the processor it comes from.
    """
    made = {
        number: layers[number] for number in block.maps if number != INPUT and not layers[number].has_weights
    }
    bound = {
        found[layer.sources[0]].first_processor - _parts_before(number, layers)
        for number, layer in made.items()
        if layer.sources[0] in found
    }
    if bound:
        return sorted(start for start in bound if start >= 0) if len(bound) == 1 else ()
    starts = range(0, chip.processors - block.processors + 1, chip.processors_per_memory)
    return sorted(starts, key=lambda start: start != wanted)


def _parts_before(number: int, layers: Sequence[Layer]) -> int:
    """Return the channels that stand before map `number` where it is part of a concatenation."""
    for layer in layers:
        if number in layer.sources and layer.operands == 1:
            before = layer.sources[: layer.sources.index(number)]
            return sum(_out(layers, one)[0] for one in before)
    return 0


def _find(
    block: Block, placed: Sequence[tuple[Block, FeatureMap]], chip: Chip, starts: Iterable[int], step: int = 1
) -> FeatureMap | None:
    """Return the first place at which nothing that is needed at the same time lies."""
    span = block.processors * step
    for first in starts:
        if first + span > chip.processors:
            continue
        taken = [
            (spot.offset, spot.offset + spot.size)
            for other, spot in placed
            if other.dies >= block.born and _share_memory(spot, first, span, chip)
        ]
        for offset in sorted({0, *(end for _, end in taken)}):
            end = offset + block.size
            if end <= chip.data_bytes and all(end <= low or offset >= high for low, high in taken):
                return FeatureMap(first, block.processors, step, offset, block.size)
    return None


def _share_memory(spot: FeatureMap, first: int, span: int, chip: Chip) -> bool:
    per = chip.processors_per_memory
    low, high = (
        spot.first_processor // per,
        (spot.first_processor + spot.processors * spot.processor_step - 1) // per,
    )
    return low <= (first + span - 1) // per and high >= first // per


def _planar(
    block: Block, reader: Layer, placed: Sequence[tuple[Block, FeatureMap]], chip: Chip
) -> tuple[Block, FeatureMap | None]:
    """Try the network's input in CHW form, where there are memories enough for its channels."""
    step = chip.processors_per_memory
    if reader.in_channels * step > chip.processors or reader.operands > 1:
        return block, None
    size = map_bytes(reader.in_channels, reader.in_size, chip, planar=True)
    planar = Block(block.maps, reader.in_channels, size, block.born, block.dies)
    starts = range(0, chip.processors, step)
    spot = _find(planar, placed, chip, starts, step)
    return (planar, spot) if spot else (block, None)


def _parts(block: Block, spot: FeatureMap, layers: Sequence[Layer]) -> dict[int, FeatureMap]:
    """Return the place of each map of a block; parts of a concatenation that fits one pass stand side by side."""
    starts = dict.fromkeys(block.maps, spot.first_processor)
    for layer in layers:
        if len(layer.sources) > 1 and layer.operands == 1 and set(layer.sources) <= set(block.maps):
            first = spot.first_processor
            if layer.in_channels > block.processors:
                continue
            for source in layer.sources:
                starts[source] = first
                first += _out(layers, source)[0]
    return {
        number: FeatureMap(
            starts[number],
            spot.processors if len(block.maps) == 1 else min(_out(layers, number)[0], spot.processors),
            spot.processor_step,
            spot.offset,
            spot.size,
        )
        for number in block.maps
    }


def _refusal(block: Block, layers: Sequence[Layer], chip: Chip) -> str:
    names = " and ".join("the input" if number == INPUT else layers[number].name for number in block.maps)
    _, size, _ = _out(layers, block.maps[0])
    where = f"a map of {size[0]}x{size[1]} from {names} takes {block.size:,} bytes of each data memory"
    if block.size > chip.data_bytes:
        return f"{where}; {chip.name} has {chip.data_bytes:,}, pool earlier, fold the input, or stream the first layers"
    return (
        f"{where} beside what is needed at the same time; {chip.name} has {chip.data_bytes:,}, pool earlier, cross a "
        f"multiple of {chip.processors} channels, or stream the first layers"
    )
