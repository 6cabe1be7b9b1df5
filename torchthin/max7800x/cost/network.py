"""What a network costs on a chip, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torchthin.max7800x.cost.bias import place_biases
from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.cycles import START_CYCLES, cycles
from torchthin.max7800x.cost.data import Block, FeatureMap, blocks, map_bytes, place_maps
from torchthin.max7800x.cost.kernels import KernelMap, Kernels, place_kernels
from torchthin.max7800x.cost.layer import INPUT, Layer
from torchthin.max7800x.cost.limits import violations
from torchthin.max7800x.cost.spread import spread
from torchthin.max7800x.cost.words import (
    bias_bytes,
    kernel_words,
    output_slots,
    passes,
    weight_bytes,
    written_words,
)


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs."""

    name: str
    kind: str
    in_channels: int
    out_channels: int
    input_passes: int
    processors: int
    """That read the layer's input and hold its kernels."""
    output_slots: int
    """Output channels computed, padding included."""
    kernel_words: int
    """In each of its processors, of 72 bits."""
    kernel_offset: int
    """First of these words."""
    bias_bytes: int
    input_bytes: int
    """In each data memory that it reads; all operands together."""
    output_bytes: int
    """In each data memory that it writes."""
    first_processor: int
    input_offset: int
    """In data memory."""
    processor_step: int
    """4 where the input lies in CHW form, one channel for each data memory; else 1."""
    output_processor: int
    """First that the output is written for."""
    output_offset: int
    cycles: int
    runs: bool
    """Whether the chip can run it; if not, its words and cycles are 0."""


@dataclass(frozen=True)
class NetworkCost:
    """What a network costs on a chip."""

    chip: str
    layers: tuple[LayerCost, ...]
    kernel_words: int
    """Of all processors together."""
    deepest_words: int
    """Words up to the end of the deepest processor's kernels; this decides whether the weights fit."""
    kernel_capacity: int
    """Words of a processor."""
    weight_bytes: int
    """Weights times bits, as ADI's tool prints it; this decides nothing."""
    bias_bytes: int
    cycles: int
    cycles_exact: bool
    """False: a guide only, ADI's tool gives no figure for this chip."""
    clock_hz: int
    moved: bool
    """Whether it fits only with feature maps moved from processor 0; the layers then say where they start."""
    violations: tuple[str, ...]
    """What is in the way, one line each; empty when the network fits."""

    @property
    def fits(self) -> bool:
        """Whether no limit is violated."""
        return not self.violations

    @property
    def latency_ms(self) -> float:
        """Time of one run at the chip's clock, without loading and unloading."""
        return 1000 * self.cycles / self.clock_hz

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON types."""
        facts = {**asdict(self), "fits": self.fits, "latency_ms": self.latency_ms}
        return {**facts, "layers": list(facts["layers"]), "violations": list(self.violations)}


@dataclass(frozen=True)
class _Placement:
    """Where all maps and kernels of a network lie."""

    maps: dict[int, FeatureMap]
    inputs: tuple[FeatureMap, ...]
    """What each layer reads."""
    kernels: KernelMap
    problems: tuple[str, ...]
    homeless: int
    """Maps without a place in data memory."""
    moved: bool = False
    """Whether maps had to be moved from processor 0."""


def _words(layer: Layer, chip: Chip) -> int:
    return 0 if violations(layer, chip) else kernel_words(layer, chip)


def _kernels(layer: Layer, chip: Chip, spot: FeatureMap) -> Kernels:
    words = _words(layer, chip)
    written = written_words(layer, chip) if words else 0
    return Kernels(layer.name, words, spot.processor_numbers, layer.depthwise, written, layer.shares)


def _placed(layers: Sequence[Layer], chip: Chip) -> _Placement:
    """Return a placement that fits; where none is found, the one with all maps at processor 0."""
    usual = _place(layers, chip, {})
    if not usual.problems:
        return usual
    moved = spread(
        [(block, _demand(block, layers, chip)) for block in blocks(layers, chip)],
        chip,
        lambda wanted: _place(layers, chip, wanted),
        lambda placement: (placement.homeless, placement.kernels.excess),
    )
    return usual if moved.problems else replace(moved, moved=True)


def _demand(block: Block, layers: Sequence[Layer], chip: Chip) -> int:
    """Return the kernel words of the layers that read a block."""
    return sum(_words(layer, chip) for layer in layers if not set(block.maps).isdisjoint(layer.sources))


def _place(layers: Sequence[Layer], chip: Chip, wanted: Mapping[int, int]) -> _Placement:
    maps, problems = place_maps(layers, chip, wanted)
    inputs = tuple(_input_map(layer, maps, chip) for layer in layers)
    kernels = place_kernels(
        [_kernels(layer, chip, spot) for layer, spot in zip(layers, inputs, strict=True)],
        chip,
    )
    return _Placement(maps, inputs, kernels, (*kernels.problems, *problems), len(problems))


def network_cost(layers: Sequence[Layer], chip: Chip) -> NetworkCost:
    """Return what `layers`, in the order in which they run, cost on `chip`."""
    placement = _placed(layers, chip)
    inputs, maps, kernels = placement.inputs, placement.maps, placement.kernels
    numbers = [spot.processor_numbers for spot in (*inputs, *maps.values())]
    quadrants = sorted({number // chip.processors_per_quadrant for each in numbers for number in each})
    outputs = [maps[number].first_processor for number in range(len(layers))]
    biases, bias_problems = place_biases(layers, numbers[: len(layers)], outputs, quadrants, chip)
    rows = tuple(
        _layer_cost(layer, chip, spot, maps[number], offset)
        for number, (layer, spot, offset) in enumerate(zip(layers, inputs, kernels.offsets, strict=True))
    )
    return NetworkCost(
        chip.name,
        rows,
        kernels.words,
        kernels.deepest,
        chip.kernel_words,
        _weight_bytes(layers, inputs),
        biases,
        START_CYCLES + sum(row.cycles for row in rows),
        chip.cycles_exact,
        chip.clock_hz,
        placement.moved,
        (
            *(text for layer in layers for text in violations(layer, chip)),
            *_unequal_parts(layers, chip),
            *_too_many(layers, chip),
            *placement.problems,
            *bias_problems,
        ),
    )


def _weight_bytes(layers: Sequence[Layer], inputs: Sequence[FeatureMap]) -> int:
    """Return the bytes of all weights; those that two layers share and that are stored once count once."""
    return sum(
        weight_bytes(layer)
        for layer, spot in zip(layers, inputs, strict=True)
        if layer.shares is None or inputs[layer.shares].processor_numbers != spot.processor_numbers
    )


def _unequal_parts(layers: Sequence[Layer], chip: Chip) -> tuple[str, ...]:
    """ADI's tool refuses to concatenate other than equal numbers of channels; parts start at a data memory of their own."""
    found = []
    for layer in layers:
        if len(layer.sources) == 1 or layer.operands > 1:
            continue
        known = {layers[source].out_channels for source in layer.sources if source != INPUT}
        if len(known) > 1 or any(count % chip.processors_per_memory for count in known):
            counts = " + ".join(
                str(layers[one].out_channels) if one != INPUT else "input" for one in layer.sources
            )
            found.append(
                f"{layer.name}: concatenates {counts} channels; the parts must be equal and multiples of "
                f"{chip.processors_per_memory}"
            )
    return tuple(found)


def _too_many(layers: Sequence[Layer], chip: Chip) -> tuple[str, ...]:
    if len(layers) <= chip.layers:
        return ()
    return (f"{len(layers)} layers; {chip.name} runs at most {chip.layers}, remove or join layers",)


def _input_map(layer: Layer, maps: dict[int, FeatureMap], chip: Chip) -> FeatureMap:
    """Return where a layer's input lies: that of its first source, widened to all parts of a concatenation."""
    first = maps[layer.sources[0]]
    if len(layer.sources) == 1 or layer.operands > 1:
        return first
    _, processors = passes(layer.in_channels, chip)
    return replace(first, processors=processors)


def _layer_cost(layer: Layer, chip: Chip, spot: FeatureMap, out: FeatureMap, offset: int) -> LayerCost:
    count, processors = passes(layer.in_channels, chip)
    runs = not violations(layer, chip)
    return LayerCost(
        layer.name,
        layer.kind,
        layer.in_channels,
        layer.out_channels,
        count,
        processors,
        output_slots(layer.out_channels, chip),
        _words(layer, chip),
        offset,
        bias_bytes(layer),
        map_bytes(layer.in_channels, layer.in_size, chip, planar=spot.processor_step > 1) * layer.operands,
        map_bytes(layer.out_channels, layer.out_size, chip, wide=layer.wide),
        spot.first_processor,
        spot.offset,
        spot.processor_step,
        out.first_processor,
        out.offset,
        cycles(layer, chip, offset, spot.first_processor) if runs else 0,
        runs,
    )
