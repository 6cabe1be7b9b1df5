"""What a network costs on a chip, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.cycles import START_CYCLES, cycles
from torchthin.max7800x.cost.data_memory import map_bytes
from torchthin.max7800x.cost.kernel_memory import stored_weight_bytes
from torchthin.max7800x.cost.layer import Layer, output_slots, passes
from torchthin.max7800x.cost.limits import network_violations
from torchthin.max7800x.cost.placement import Placement, place_biases, place_network
from torchthin.max7800x.cost.streaming import STREAMING_CYCLES, streaming_layers


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
    """False: a guide only, ADI's tool gives no figure for this chip, or an estimate where layers stream."""
    clock_hz: int
    moved: bool
    """Whether it fits only with feature maps moved from processor 0; the layers then say where they start."""
    violations: tuple[str, ...]
    """What does not run or fit, one line each; empty when the network fits."""
    streams: tuple[str, ...] = ()
    """First layers with which, when they stream, all maps fit; empty where that is not needed, or does not do it."""

    @property
    def streaming_hint(self) -> str:
        """What the user has to decide where layers would have to stream; else empty."""
        if not self.streams:
            return ""
        named = ", ".join(self.streams)
        return (
            f"All maps fit once the first layers stream ({named}). Give a network description with --synthesis-yaml that has "
            "`streaming: true` at these, and offsets of your choice at all layers: torchthin places no rolling buffers. Start "
            "ai8xize.py with --fifo"
        )

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
        lists = {key: list(facts[key]) for key in ("layers", "violations", "streams")}
        return {**facts, **lists}


def network_cost(layers: Sequence[Layer], chip: ChipSpec, streaming: int = 0) -> NetworkCost:
    """Return what `layers`, in the order in which they run, cost on `chip`. streaming: so many first layers stream."""
    placement = place_network(layers, chip, streaming)
    bias_bytes, bias_problems = place_biases(layers, placement, chip)
    rows = tuple(
        _layer_cost(number, layer, placement, chip, streams=number < streaming)
        for number, layer in enumerate(layers)
    )
    needed = streaming_layers(layers, chip) if placement.unplaced else None
    return NetworkCost(
        chip=chip.name,
        layers=rows,
        kernel_words=placement.kernel_map.words,
        deepest_words=placement.kernel_map.deepest,
        kernel_capacity=chip.kernel_words,
        weight_bytes=stored_weight_bytes(layers, placement.kernels),
        bias_bytes=bias_bytes,
        cycles=START_CYCLES + sum(row.cycles for row in rows),
        cycles_exact=chip.cycles_exact and not streaming,
        clock_hz=chip.clock_hz,
        moved=placement.moved,
        violations=(*network_violations(layers, chip), *placement.problems, *bias_problems),
        streams=tuple(layer.name for layer in layers[: needed or 0]),
    )


def _layer_cost(
    number: int, layer: Layer, placement: Placement, chip: ChipSpec, *, streams: bool
) -> LayerCost:
    place, out = placement.inputs[number], placement.maps[number]
    offset = placement.kernel_map.offsets[number]
    count, processors = passes(layer.in_channels, chip)
    planar = place.processor_step > 1
    runs = placement.runs[number]
    spent = cycles(layer, chip, offset, place.first_processor) if runs else 0
    return LayerCost(
        name=layer.name,
        kind=layer.kind,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        input_passes=count,
        processors=processors,
        output_slots=output_slots(layer.out_channels, chip, layer.idle_slots),
        kernel_words=placement.kernels[number].words,
        kernel_offset=offset,
        bias_bytes=layer.bias_bytes,
        input_bytes=map_bytes(layer.in_channels, layer.in_size, chip, planar=planar) * layer.operands,
        output_bytes=map_bytes(layer.out_channels, layer.out_size, chip, wide=layer.wide),
        first_processor=place.first_processor,
        input_offset=place.offset,
        processor_step=place.processor_step,
        output_processor=out.first_processor,
        output_offset=out.offset,
        cycles=int(STREAMING_CYCLES * spent) if streams else spent,
        runs=runs,
    )
