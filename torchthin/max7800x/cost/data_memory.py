"""Where feature maps lie in data memory.

A data memory holds four neighbouring channels, pixel by pixel (HWC); in CHW form, for the network's input only, one channel.
A map lies at the same offset in all memories it touches, from the layer that writes it to the last one that reads it, and may
start at any fourth processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.layer import INPUT, Layer, Size, passes

_CHANNELS_PER_WORD = 4
_WIDE_FACTOR = 4


@dataclass(frozen=True)
class MapPlace:
    """Where the input of a network or the output of a layer lies."""

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
        end = self.first_processor + self.processors * self.processor_step
        return range(self.first_processor, end, self.processor_step)


@dataclass(frozen=True)
class MapGroup:
    """Maps that must lie together: one alone, the operands of an element-wise operation, or the parts of a concatenation."""

    maps: tuple[int, ...]
    """Numbers of the layers that write them, in order."""
    processors: int
    size: int
    """Bytes in each memory."""
    first_use: int
    """Number of the first layer that writes one of them."""
    last_use: int
    """Number of the last layer that reads one of them."""
    processor_step: int = 1
    """4 in CHW form."""

    def feeds(self, layer: Layer) -> bool:
        """Whether `layer` reads one of them."""
        return not set(self.maps).isdisjoint(layer.sources)


def map_bytes(channels: int, size: Size, chip: ChipSpec, *, wide: bool = False, planar: bool = False) -> int:
    """Return the bytes that a feature map takes in each data memory it touches; `planar`: in CHW form."""
    per_pixel = 1 if planar else _CHANNELS_PER_WORD
    return size[0] * size[1] * passes(channels, chip)[0] * per_pixel * (_WIDE_FACTOR if wide else 1)


def place_maps(
    layers: Sequence[Layer],
    chip: ChipSpec,
    preferred: Mapping[int, int] | None = None,
    *,
    before: str = "",
) -> tuple[dict[int, MapPlace], tuple[str, ...]]:
    """Give every feature map its place: first fit in the order in which they are written.

    Args:
        layers: a network.
        chip: where it runs.
        preferred: first map of a group -> first processor to try before all others, which come in order.
        before: name of the layer before these, whose map is their input and lies in HWC form; empty: the input is the network's.

    Returns:
        Layer number (`INPUT` for the network's input) -> place, and a line for each map that did not fit. Such a map gets
        offset 0.
    """
    memory = _DataMemory(chip)
    found: dict[int, MapPlace] = {}
    problems = []
    for group in map_groups(layers, chip):
        place = memory.place(
            group, _starts(group, layers, chip, found, (preferred or {}).get(group.maps[0], 0))
        )
        if place is None and group.maps == (INPUT,) and not before:
            place = _place_planar(memory, group, layers[0], chip)
        if place is None:
            problems.append(_refusal(group, layers, chip, before or "the input"))
            place = memory.put(group, MapPlace(0, group.processors, 1, 0, group.size))
        found.update(_parts(group, place, layers))
    return found, tuple(problems)


class _DataMemory:
    """What lies in the data memories of a chip."""

    def __init__(self, chip: ChipSpec) -> None:
        self._chip = chip
        self._taken: list[tuple[MapGroup, MapPlace]] = []

    def put(self, group: MapGroup, place: MapPlace) -> MapPlace:
        """Note that a group lies at a place."""
        self._taken.append((group, place))
        return place

    def place(self, group: MapGroup, starts: Iterable[int]) -> MapPlace | None:
        """Put a group at the first place that overlaps with nothing that is needed at the same time; None: there is none."""
        span = group.processors * group.processor_step
        for first in starts:
            if first + span > self._chip.processors:
                continue
            taken = [
                (place.offset, place.offset + place.size)
                for other, place in self._taken
                if other.last_use >= group.first_use and self._share_memory(place, first, span)
            ]
            for offset in sorted({0, *(end for _, end in taken)}):
                end = offset + group.size
                if end <= self._chip.data_bytes and all(end <= low or offset >= high for low, high in taken):
                    step = group.processor_step
                    return self.put(group, MapPlace(first, group.processors, step, offset, group.size))
        return None

    def _share_memory(self, place: MapPlace, first: int, span: int) -> bool:
        per = self._chip.processors_per_memory
        low = place.first_processor // per
        high = (place.first_processor + place.processors * place.processor_step - 1) // per
        return low <= (first + span - 1) // per and high >= first // per


def _output(layers: Sequence[Layer], number: int) -> tuple[int, Size, bool]:
    """Return channels, size and width of a map."""
    if number == INPUT:
        consumer = next(layer for layer in layers if INPUT in layer.sources)
        return consumer.in_channels, consumer.in_size, False
    return layers[number].out_channels, layers[number].out_size, layers[number].wide


def map_groups(layers: Sequence[Layer], chip: ChipSpec) -> list[MapGroup]:
    """Return what must lie together, in the order in which the first map of each is written."""
    joined = {number: {number} for number in range(INPUT, len(layers))}
    last = dict.fromkeys(joined, len(layers))  # a map that no layer reads is an output, needed to the end
    for number, layer in enumerate(layers):
        together = set().union(*(joined[source] for source in layer.sources))
        joined.update(dict.fromkeys(together, together))
        last.update(dict.fromkeys(layer.sources, number))
    first_maps = [
        number
        for number, members in joined.items()
        if number == min(members) and (number != INPUT or any(INPUT in layer.sources for layer in layers))
    ]
    return [
        _group(tuple(sorted(joined[number])), layers, chip, max(last[one] for one in joined[number]))
        for number in first_maps
    ]


def _group(maps: tuple[int, ...], layers: Sequence[Layer], chip: ChipSpec, last_use: int) -> MapGroup:
    consumers = {
        (layer.sources, layer.operands): layer
        for layer in layers
        if len(layer.sources) > 1 and set(layer.sources) <= set(maps)
    }
    if consumers:
        processors = max(passes(layer.in_channels, chip)[1] for layer in consumers.values())
        size = sum(map_bytes(one.in_channels, one.in_size, chip) * one.operands for one in consumers.values())
    else:
        channels, pixels, wide = _output(layers, maps[0])
        processors, size = passes(channels, chip)[1], map_bytes(channels, pixels, chip, wide=wide)
    return MapGroup(maps, processors, size, maps[0], last_use)


def _starts(
    group: MapGroup, layers: Sequence[Layer], chip: ChipSpec, found: Mapping[int, MapPlace], preferred: int
) -> Iterable[int]:
    """Return the processors at which a group may start, those to try first come first.

    A layer without kernels passes every channel on to the processor it comes from.
    """
    bound = {
        found[layers[number].sources[0]].first_processor - _parts_before(number, layers)
        for number in group.maps
        if number != INPUT and not layers[number].has_weights and layers[number].sources[0] in found
    }
    if bound:
        return [start for start in bound if start >= 0] if len(bound) == 1 else ()
    starts = range(0, chip.processors - group.processors + 1, chip.processors_per_memory)
    return sorted(starts, key=lambda start: start != preferred)


def _parts_before(number: int, layers: Sequence[Layer]) -> int:
    """Return the channels that lie before map `number` where it is part of a concatenation."""
    for layer in layers:
        if number in layer.sources and layer.operands == 1:
            before = layer.sources[: layer.sources.index(number)]
            return sum(_output(layers, one)[0] for one in before)
    return 0


def _place_planar(memory: _DataMemory, group: MapGroup, consumer: Layer, chip: ChipSpec) -> MapPlace | None:
    """Try the network's input in CHW form, where there are memories enough for its channels."""
    step = chip.processors_per_memory
    if consumer.in_channels * step > chip.processors or consumer.operands > 1:
        return None
    size = map_bytes(consumer.in_channels, consumer.in_size, chip, planar=True)
    planar = replace(group, processors=consumer.in_channels, size=size, processor_step=step)
    return memory.place(planar, range(0, chip.processors, step))


def _parts(group: MapGroup, place: MapPlace, layers: Sequence[Layer]) -> dict[int, MapPlace]:
    """Return the place of each map of a group; parts of a concatenation that fits one pass lie side by side."""
    if len(group.maps) == 1:
        return {group.maps[0]: place}
    starts = dict.fromkeys(group.maps, place.first_processor)
    for layer in layers:
        mine = layer.concatenates and set(layer.sources) <= set(group.maps)
        if mine and layer.in_channels <= group.processors:
            first = place.first_processor
            for source in layer.sources:
                starts[source] = first
                first += _output(layers, source)[0]
    return {
        number: replace(
            place,
            first_processor=starts[number],
            processors=min(_output(layers, number)[0], place.processors),
        )
        for number in group.maps
    }


def _refusal(group: MapGroup, layers: Sequence[Layer], chip: ChipSpec, before: str) -> str:
    names = " and ".join(before if number == INPUT else layers[number].name for number in group.maps)
    _, size, _ = _output(layers, group.maps[0])
    where = f"a map of {size[0]}x{size[1]} from {names} takes {group.size:,} bytes of each data memory"
    if group.size > chip.data_bytes:
        return f"{where}; {chip.name} has {chip.data_bytes:,}, pool earlier, fold the input, or stream the first layers"
    return (
        f"{where} beside what is needed at the same time; {chip.name} has {chip.data_bytes:,}, pool earlier, cross a "
        f"multiple of {chip.processors} channels, or stream the first layers"
    )
