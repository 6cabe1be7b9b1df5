"""What a network costs on a chip, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torchthin.chips.bias import place_biases
from torchthin.chips.chip import Chip
from torchthin.chips.cycles import START_CYCLES, cycles
from torchthin.chips.data import FeatureMap, map_bytes, place_maps
from torchthin.chips.kernels import Kernels, place_kernels
from torchthin.chips.layer import Layer
from torchthin.chips.limits import violations
from torchthin.chips.words import bias_bytes, kernel_words, output_slots, passes, weight_bytes


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
    cycles: int


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
        return {**asdict(self), "fits": self.fits, "latency_ms": self.latency_ms}


def network_cost(layers: Sequence[Layer], chip: Chip) -> NetworkCost:
    """Return what `layers`, in the order in which they run, cost on `chip`."""
    maps, map_problems = place_maps(layers, chip)
    inputs = [_input_map(layer, maps, chip) for layer in layers]
    kernels = place_kernels(
        [
            Kernels(layer.name, kernel_words(layer, chip), spot.processor_numbers, layer.depthwise)
            for layer, spot in zip(layers, inputs, strict=True)
        ],
        chip,
    )
    numbers = [spot.processor_numbers for spot in (*inputs, *maps.values())]
    quadrants = sorted({number // chip.processors_per_quadrant for each in numbers for number in each})
    biases, bias_problems = place_biases(layers, numbers[: len(layers)], quadrants, chip)
    rows = tuple(
        _layer_cost(layer, chip, spot, offset)
        for layer, spot, offset in zip(layers, inputs, kernels.offsets, strict=True)
    )
    return NetworkCost(
        chip.name,
        rows,
        sum(row.kernel_words * row.processors for row in rows),
        kernels.deepest,
        chip.kernel_words,
        sum(map(weight_bytes, layers)),
        biases,
        START_CYCLES + sum(row.cycles for row in rows),
        chip.cycles_exact,
        chip.clock_hz,
        (
            *(text for layer in layers for text in violations(layer, chip)),
            *_too_many(layers, chip),
            *kernels.problems,
            *map_problems,
            *bias_problems,
        ),
    )


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


def _layer_cost(layer: Layer, chip: Chip, spot: FeatureMap, offset: int) -> LayerCost:
    count, processors = passes(layer.in_channels, chip)
    return LayerCost(
        layer.name,
        layer.kind,
        layer.in_channels,
        layer.out_channels,
        count,
        processors,
        output_slots(layer.out_channels, chip),
        kernel_words(layer, chip),
        offset,
        bias_bytes(layer),
        map_bytes(layer.in_channels, layer.in_size, chip, planar=spot.processor_step > 1) * layer.operands,
        map_bytes(layer.out_channels, layer.out_size, chip, wide=layer.wide),
        spot.first_processor,
        spot.offset,
        cycles(layer, chip, offset),
    )
