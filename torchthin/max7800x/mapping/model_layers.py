"""From the record of a forward pass to the layers of a chip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from torchthin.errors import ConfigError, InputError
from torchthin.graph.opgraph import BRANCH, Op, OpGraph
from torchthin.graph.trace import Traced
from torchthin.max7800x.ai8x.settings import ModuleSettings
from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.layer import INPUT, WEIGHT_BITS, Layer, WeightBits
from torchthin.max7800x.cost.limits import violations
from torchthin.max7800x.mapping import rules as rules  # registers them
from torchthin.max7800x.mapping.feature_map import ChipMapping, FeatureMap, HostTensor, Origin
from torchthin.max7800x.mapping.layer_builder import LayerBuilder, Unmappable
from torchthin.max7800x.mapping.registry import Call, Tracked, apply_rule, inputs_of

NO_LAYER = "no layer of the model runs on the chip"
_End = tuple[Tracked, Op | None]
"""An output of the model, and the op that writes it."""


def map_model(traced: Traced, chip: ChipSpec, weight_bits: WeightBits = 8) -> ChipMapping:
    """Return the layers that a model becomes on `chip`; layers that the chip cannot run are named in the result.

    Args:
        traced: any model on one example (N, C, H, W) or (N, C, L); sizes count, values and N do not.
        chip: where it is to run.
        weight_bits: of layers that do not say it themselves.

    Raises:
        InputError: the model takes other than one tensor of 3 or 4 axes.
    """
    asked = (weight_bits,) if isinstance(weight_bits, int) else weight_bits.values()
    if any(bits not in WEIGHT_BITS for bits in asked):
        raise ConfigError(f"The weight_bits of a chip must be 1, 2, 4 or 8. Got {weight_bits!r}.")
    builder = LayerBuilder()
    ends = _walk(traced.graph, builder, chip, ModuleSettings(traced.model, weight_bits))
    outside, outputs = _finish(builder, ends)
    layers, numbers = _with_copies(builder.layers, chip)
    copies = (
        f"{layer.name}: the chip needs it, pixel by pixel beside the other operand"
        for layer, number in zip(layers, numbers, strict=True)
        if number is None
    )
    return ChipMapping(
        layers,
        tuple(Origin() if number is None else builder.origin(number) for number in numbers),
        tuple(builder.problems),
        outside,
        (*builder.notes, *copies),
        tuple(place for place, number in enumerate(numbers) if number in outputs),
    )


def map_runnable(
    traced: Traced, chip: ChipSpec, consequence: str, weight_bits: WeightBits = 8
) -> ChipMapping:
    """Return the layers of a model of which all runs on `chip`.

    Raises:
        InputError: something does not; the message names the first reason, and `consequence`, what that makes impossible.
    """
    mapping = map_model(traced, chip, weight_bits)
    found = [*mapping.problems, *(text for layer in mapping.layers for text in violations(layer, chip))]
    if not mapping.layers:
        found = [NO_LAYER]
    if found:
        more = f" And {len(found) - 1} more: see torchthin chip." if len(found) > 1 else ""
        raise InputError(f"The model does not run on {chip.name}, so {consequence}. {found[0]}.{more}")
    return mapping


_BESIDE = ("aten.gt", "aten.ceil")
"""What truncation in an ai8x layer reads a value with beside ``floor``: one operation of the chip."""


def _walk(graph: OpGraph, builder: LayerBuilder, chip: ChipSpec, settings: ModuleSettings) -> list[_End]:
    """Build the layers op by op; return what is known of the model's outputs."""
    known: dict[int, Tracked] = {graph.inputs[0]: _model_input(graph)}
    reads = Counter(graph.outputs)  # by operators that do not write to the value, and as an output
    for op in graph.ops:
        if op.index < BRANCH and not (op.name in _BESIDE and settings.scales(op.source.module)):
            reads.update(set(op.reads) - set(op.written))
    for op in graph.ops:
        if op.index >= BRANCH or not any(value in known for value in op.reads):
            continue
        result = apply_rule(Call(op, builder, chip, settings, known, graph))
        if isinstance(result, FeatureMap):
            builder.note_result(result, op)
        for position, ref in enumerate(op.outputs):
            if ref is not None:
                known[ref.value] = _second(op, result) if position else _marked(result, reads[ref.value] > 1)
    return [(known[number], graph.producer.get(number)) for number in graph.outputs if number in known]


def _model_input(graph: OpGraph) -> FeatureMap:
    """Return what is known of the model's input."""
    numbers = graph.users.keys() & set(graph.inputs)
    shape = graph.values[graph.inputs[0]].shape
    if len(numbers) > 1 and not graph.branched:
        raise InputError(f"A chip takes one input tensor. The model reads {len(numbers)}.")
    if len(shape) not in (3, 4):
        cure = (
            " Give the part that runs on the chip, with one frame as its example." if len(shape) > 4 else ""
        )
        raise InputError(
            f"The input of a chip must have the axes (N, C, H, W) or (N, C, L). Got the shape {tuple(shape)}.{cure}"
        )
    size = (shape[2], shape[3] if len(shape) == 4 else 1)
    return FeatureMap((INPUT,), (0,), shape[1], size, sequence=len(shape) == 3, where="input")


def _marked(result: Tracked, shared: bool) -> Tracked:
    if isinstance(result, HostTensor) or result.plain:
        return result
    return replace(result, shared=result.shared or shared)


def _second(op: Op, result: Tracked) -> HostTensor:
    """Second results are indices of pooling and statistics: no layer can read them."""
    where = op.source.module or "forward"
    return HostTensor(f"{where}: a second result of {op.name.removeprefix('aten.')}", inputs_of([result]))


def _finish(builder: LayerBuilder, ends: list[_End]) -> tuple[tuple[str, ...], set[int]]:
    """Let layers do what is pending at the outputs; return what the host computes, and the layers that it reads."""
    outside, outputs = [], set[int]()
    for output, producer in ends:
        if isinstance(output, HostTensor):
            outside.append(output.reason)
        for features in inputs_of([output]):
            outputs.update(_finished(builder, features, producer if output is features else None))
    return tuple(reason for reason in dict.fromkeys(outside) if reason not in builder.problems), outputs


def _finished(builder: LayerBuilder, features: FeatureMap, producer: Op | None) -> tuple[int, ...]:
    """Let a layer do what is pending; return the layers that write the map."""
    try:
        final = features if features.concatenated else builder.materialize(features)
    except Unmappable as error:
        builder.report(f"{features.where}: {error}")
        return ()
    builder.read(final)
    if producer is not None:
        builder.note_result(final, producer)
    return final.sources


def _with_copies(layers: Sequence[Layer], chip: ChipSpec) -> tuple[tuple[Layer, ...], tuple[int | None, ...]]:
    """Return the layers with the copies that `chip` needs, and for each the number it had (None: a copy).

    Operands of an element-wise operation lie pixel by pixel between each other, so the layer that writes one leaves gaps. A map
    that another layer reads as well must be there a second time, without gaps: a layer that only copies writes the one with gaps.
    """
    found: list[Layer] = []
    numbers: list[int | None] = []
    place = {INPUT: INPUT}
    copies: dict[tuple[int, int], int] = {}  # (map, layer that reads it as an operand) -> copy

    def copy_for_operations(number: int) -> None:
        for consumer in _needing_copies(number, layers, chip):
            copies[number, consumer] = len(found)
            found.append(_copy(number, layers, layers[consumer], place[number]))
            numbers.append(None)

    copy_for_operations(INPUT)
    for number, layer in enumerate(layers):
        sources = tuple(copies.get((source, number), place[source]) for source in layer.sources)
        place[number] = len(found)
        shares = None if layer.shares is None else place[layer.shares]
        found.append(replace(layer, sources=sources, shares=shares))
        numbers.append(number)
        copy_for_operations(number)
    return tuple(found), tuple(numbers)


def _needing_copies(number: int, layers: Sequence[Layer], chip: ChipSpec) -> list[int]:
    """Return the layers that need the map of layer `number` as an operand of their own."""
    consumers = [consumer for consumer, layer in enumerate(layers) if number in layer.sources]
    operations = [consumer for consumer in consumers if layers[consumer].operands > 1]
    if len(consumers) < 2 or not operations:
        return []
    if chip.reads_gaps and layers[operations[0]].in_channels <= chip.processors:
        return operations[1:]  # the others read over the gaps of the first
    return operations if len(operations) < len(consumers) else operations[1:]


def _copy(number: int, layers: Sequence[Layer], consumer: Layer, source: int) -> Layer:
    return Layer(
        name=f"copy of {'the input' if number == INPUT else layers[number].name}",
        kind="passthrough",
        in_channels=consumer.in_channels,
        out_channels=consumer.in_channels,
        in_size=consumer.in_size,
        bias=False,
        sources=(source,),
    )
