"""Where all feature maps, kernels and biases of a network lie.

Every map may start at any fourth processor, and with it start the kernels of the layers that read it. ADI's tool leaves the
choice to the user. Maps that start at processor 0 are the usual choice and are kept where they fit; where kernel memory or data
memory would run full, they are moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.data_memory import MapGroup, MapPlace, map_groups, place_maps
from torchthin.max7800x.cost.kernel_memory import KernelMap, LayerKernels, layer_kernels, place_kernels
from torchthin.max7800x.cost.layer import Layer, passes, round_up
from torchthin.max7800x.cost.limits import violations
from torchthin.max7800x.cost.streaming import place_streamed_maps

_Starts = dict[int, int]
"""First map of a group -> its first processor; 0 where there is none."""
_Demand = tuple[MapGroup, int]
"""A group of maps, and the kernel words of the layers that read it."""
_SWEEPS = 4


@dataclass(frozen=True)
class Placement:
    """Where all maps and kernels of a network lie."""

    maps: dict[int, MapPlace]
    inputs: tuple[MapPlace, ...]
    """What each layer reads."""
    runs: tuple[bool, ...]
    """Whether the chip can run each layer; one that it cannot run takes no words."""
    kernels: tuple[LayerKernels, ...]
    kernel_map: KernelMap
    problems: tuple[str, ...]
    unplaced: int
    """Maps without a place in data memory."""
    moved: bool = False
    """Whether maps had to be moved from processor 0."""

    @property
    def excess(self) -> tuple[int, int]:
        """What does not fit, most important first; all zeros: it fits."""
        return self.unplaced, self.kernel_map.excess


def place_network(layers: Sequence[Layer], chip: ChipSpec, streaming: int = 0) -> Placement:
    """Return a placement that fits; where none is found, the one with all maps at processor 0.

    From several beginnings maps are moved one by one, each to where least exceeds the memories, until no move helps. Where the
    first layers stream, maps stay where the user's description has them, and none is moved.
    """
    usual = _place(layers, chip, {}, streaming)
    if not usual.problems or streaming:
        return usual
    groups = [
        (group, sum(k.words for k, layer in zip(usual.kernels, layers, strict=True) if group.feeds(layer)))
        for group in map_groups(layers, chip)
        if group.processors < chip.processors
    ]
    best = None
    for starts in _beginnings(groups, chip):
        found = _descend(starts, [group for group, _ in groups], chip, layers)
        if best is None or found.excess < best.excess:
            best = found
        if not any(best.excess):
            break
    return usual if best is None or best.problems else replace(best, moved=True)


def _place(
    layers: Sequence[Layer], chip: ChipSpec, preferred: Mapping[int, int], streaming: int = 0
) -> Placement:
    maps, map_problems = (
        place_streamed_maps(layers, chip, streaming) if streaming else place_maps(layers, chip, preferred)
    )
    inputs = []
    for layer in layers:
        place = maps[layer.sources[0]]
        if layer.concatenates:  # from the first part, widened to all
            place = replace(place, processors=passes(layer.in_channels, chip)[1])
        inputs.append(place)
    runs = tuple(not violations(layer, chip) for layer in layers)
    kernels = tuple(
        layer_kernels(layer, chip, place.processor_numbers, runs=running)
        for layer, place, running in zip(layers, inputs, runs, strict=True)
    )
    kernel_map = place_kernels(kernels, chip)
    problems = (*kernel_map.problems, *map_problems)
    return Placement(maps, tuple(inputs), runs, kernels, kernel_map, problems, len(map_problems))


def _beginnings(groups: Sequence[_Demand], chip: ChipSpec) -> list[_Starts]:
    """All at processor 0; each where the processors hold least, in three orders."""
    orders: tuple[Callable[[_Demand], int], ...] = (
        lambda item: -item[0].processors,
        lambda item: -item[1],
        lambda item: -item[0].processors * item[1],
    )
    return [{}, *(_least_loaded(sorted(groups, key=order), chip) for order in orders)]


def _least_loaded(groups: Sequence[_Demand], chip: ChipSpec) -> _Starts:
    loads = [0] * chip.processors
    starts: _Starts = {}
    for group, words in groups:
        best = min(_places(group, chip), key=lambda first: max(loads[first : first + group.processors]))
        for number in range(best, best + group.processors):
            loads[number] += words
        starts[group.maps[0]] = best
    return starts


def _places(group: MapGroup, chip: ChipSpec) -> range:
    return range(0, chip.processors - group.processors + 1, chip.processors_per_memory)


def _descend(
    starts: _Starts, groups: Sequence[MapGroup], chip: ChipSpec, layers: Sequence[Layer]
) -> Placement:
    best = _place(layers, chip, starts)
    for _ in range(_SWEEPS):
        before = best
        for group in sorted(groups, key=lambda one: -one.processors):
            for first in _places(group, chip):
                if not any(best.excess):
                    return best
                tried = _place(layers, chip, {**starts, group.maps[0]: first})
                if tried.excess < best.excess:
                    best, starts = tried, {**starts, group.maps[0]: first}
        if best is before:
            break
    return best


def place_biases(
    layers: Sequence[Layer], placement: Placement, chip: ChipSpec
) -> tuple[int, tuple[str, ...]]:
    """Return the bytes used in all quadrants together, and a line for each layer whose biases did not fit.

    Those of a layer lie in one quadrant: the largest first, each in the quadrant that has most room.
    """
    maps = (*placement.inputs, *placement.maps.values())
    numbers = {number for place in maps for number in place.processor_numbers}
    used = dict.fromkeys(sorted({number // chip.processors_per_quadrant for number in numbers}), 0)
    ends = dict(used)
    problems = []
    movable = []
    for number, (layer, place) in enumerate(zip(layers, placement.inputs, strict=True)):
        if not layer.has_own_bias:
            continue
        if layer.depthwise:
            in_place = place.first_processor == placement.maps[number].first_processor
            place_depthwise_biases(used, ends, place.processor_numbers, layer, in_place, chip)
        else:
            movable.append(layer)
    movable.sort(key=lambda one: (not (chip.flatten_bias_first and one.flatten), -one.bias_bytes))
    for layer in movable:
        roomiest = min(used, key=lambda quadrant: used[quadrant])
        if used[roomiest] + layer.bias_bytes > chip.bias_bytes:
            problems.append(
                f"{layer.name}: {layer.bias_bytes} biases; the roomiest of {len(used)} quadrants has "
                f"{chip.bias_bytes - used[roomiest]} of {chip.bias_bytes} bytes left, train layers without bias"
            )
        used[roomiest] += layer.bias_bytes
    return sum(used.values()), tuple(problems)


def place_depthwise_biases(
    used: dict[int, int],
    ends: dict[int, int],
    processors: Sequence[int],
    layer: Layer,
    in_place: bool,
    chip: ChipSpec,
) -> None:
    """Add the biases of a depthwise layer: each quadrant needs those of its own channels, for every pass.

    Where channels stay at their processors, four data memories are read at once: biases start at a multiple of 4 and lie in
    the order of channels 0, 4, 8, 12, 1, ..., with gaps for the channels that a quadrant lacks. Elsewhere those of the first
    quadrant lie at its beginning, with a gap at its end where there are more quadrants. Gaps at the end of the last quadrant
    are taken back.

    Args:
        used: quadrant -> bytes; changed.
        ends: quadrant -> bytes up to the last bias, without gaps after it; changed.
        processors: that hold the channels of a pass, in their order.
        layer: whose biases.
        in_place: whether its outputs stay at the processors of its inputs.
        chip: where it runs.
    """
    count, each = passes(layer.out_channels, chip)
    width, step = chip.processors_per_quadrant, chip.processors_per_memory
    quadrants = sorted({number // width for number in processors})
    gap = 0 if in_place else processors[0] % width
    holding = [number - gap * (number // width == quadrants[0]) for number in processors]
    aligned = in_place or len(quadrants) > 1
    first = quadrants[0] * width if aligned else holding[0]
    last = quadrants[-1] * width + width - 1 if in_place else holding[-1]
    if in_place:
        used.update((quadrant, round_up(used[quadrant], step)) for quadrant in quadrants)
    for number in range(count):
        missing = count * each - layer.out_channels if number == count - 1 else 0
        present = set(holding[: len(holding) - missing])
        for place in range(first, last + 1):
            quadrant, within = divmod(place, width)
            holder = quadrant * width + within % step * step + within // step if in_place else place
            used[quadrant] += 1
            if holder in present:
                ends[quadrant] = used[quadrant]
    used[quadrants[-1]] = ends[quadrants[-1]]
