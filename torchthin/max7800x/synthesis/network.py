"""A model made ready for a chip's own tools: its layers, where they lie, the numbers of each, and the proof."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from torchthin.errors import ProofError, TargetMissedError
from torchthin.graph.inputs import as_inputs, check_model, on_device_of
from torchthin.graph.trace import trace
from torchthin.max7800x.chips import ChipSpec, chip_named
from torchthin.max7800x.cost.layer import Layer, WeightBits
from torchthin.max7800x.cost.network import network_cost
from torchthin.max7800x.mapping import ChipMapping, map_runnable
from torchthin.max7800x.report import ChipReport
from torchthin.max7800x.synthesis.capture import Captured, capture
from torchthin.max7800x.synthesis.description import Entry, entries
from torchthin.max7800x.synthesis.integers import ChipNumbers, chip_numbers
from torchthin.max7800x.synthesis.layout import BY_COST, Layout
from torchthin.max7800x.synthesis.simulation import simulate
from torchthin.max7800x.synthesis.stored import as_stored
from torchthin.max7800x.synthesis.weights import (
    LayerWeights,
    all_weights,
    folded_input,
    input_fold,
    state_dict,
)

TOLERANCE = 1e-5
"""Of the largest value of a layer's output: what is written has 24 bits of mantissa, the comparison 53."""
HIGHEST = 127 / 128
"""What the chip holds between layers."""


@dataclass(frozen=True)
class ChipNetwork:
    """What is written for a chip."""

    chip: ChipSpec
    mapping: ChipMapping
    report: ChipReport
    """The table of layers, with words, offsets and cycles."""
    state: dict[str, Tensor]
    """Of the checkpoint."""
    entries: tuple[Entry, ...]
    """Of the description."""
    max_error: float
    """Largest difference between what a layer stores by the files and by the model, in units of its largest value."""
    compared: int
    """Layers whose outputs were compared."""
    notes: tuple[str, ...]
    """What the user has to know, one sentence each."""
    sample: Tensor
    """The example input as the chip takes it, folded, (N, C, ...)."""


def chip_network(
    model: nn.Module,
    example_inputs: Any,
    chip: str = "MAX78000",
    weight_bits: WeightBits = 8,
    layout: Layout = BY_COST,
) -> ChipNetwork:
    """Return all that is to be written for `model`, which is left as it is; see `save_for_synthesis`.

    layout: what the user's description decides of where maps lie.

    Raises:
        InputError: something of the model does not run on the chip; the message names the layer and the limit.
        TargetMissedError: it runs, and does not fit.
        ProofError: the layers as written compute something else than the model.
    """
    known = chip_named(chip)
    check_model(model, "chip_network")
    inputs = on_device_of(model, as_inputs(example_inputs))
    mapping = map_runnable(trace(model, inputs), known, "nothing was written for it", weight_bits)
    mapping = replace(mapping, layers=layout.of(mapping.layers, known))
    streaming = layout.streaming
    report = ChipReport(network_cost(mapping.layers, known, streaming), (), mapping.outside, mapping.notes)
    if not report.fits:
        first, *more = report.obstacles
        others = f" And {len(more)} more: see torchthin chip." if more else ""
        others += f" {report.cost.streaming_hint}." if report.cost.streams else ""
        raise TargetMissedError(
            f"The model does not fit {known.name}, so nothing was written for it. {first}.{others}"
        )
    captured = capture(model, inputs, mapping)
    weights = [one and one.as_written() for one in all_weights(model, mapping, captured)]
    numbers = [
        None if one is None else chip_numbers(layer, one)
        for layer, one in zip(mapping.layers, weights, strict=True)
    ]
    report = replace(report, cost=network_cost(as_stored(mapping.layers, numbers), known, streaming))
    described = entries(mapping.layers, report.cost, known, mapping.outputs)
    values = simulate(mapping.layers, weights, captured.image)
    errors = _compare(mapping, values, captured, known)
    return ChipNetwork(
        chip=known,
        mapping=mapping,
        report=report,
        state=state_dict(mapping.layers, weights),
        entries=tuple(
            entry if one is None or bool(one.weight.any()) else {**entry, "quantization": layer.weight_bits}
            for layer, entry, one in zip(mapping.layers, described, numbers, strict=True)
        ),
        max_error=max(errors),
        compared=len(errors),
        notes=(*_remarks(mapping, weights, values), *_zeros(mapping.layers, numbers)),
        sample=folded_input(captured.image, input_fold(weights)),
    )


def _zeros(layers: Sequence[Layer], numbers: Sequence[ChipNumbers | None]) -> Iterator[str]:
    """Yield a line for each layer of which rounding leaves nothing; ai8xize.py takes 1 bit for it where none are said."""
    for layer, one in zip(layers, numbers, strict=True):
        if one is not None and not bool(one.weight.any()):
            yield f"{layer.name}: all its weights are zero in {layer.weight_bits} bits. Remove it, or train it with more."


def _compare(
    mapping: ChipMapping, values: Sequence[Tensor], captured: Captured, chip: ChipSpec
) -> list[float]:
    """Return how far each layer, as written, is from what the model computes, where the model shows it."""
    errors = []
    for layer, origin, value in zip(mapping.layers, mapping.origins, values, strict=True):
        if origin.result not in captured.results:
            continue
        error = _distance(captured.results[origin.result], value)
        if not error <= TOLERANCE:
            raise ProofError(
                f"{layer.name}: as written for {chip.name} it differs from the model by {error:.1e} of its largest value, so "
                "nothing was written. What the chip limits (sums beyond its range) must be limited in the model as well."
            )
        errors.append(error)
    if not errors:
        raise ProofError("No layer's output could be compared with the model's, so nothing was written.")
    return errors


def _distance(expected: Tensor, actual: Tensor) -> float:
    if expected.numel() != actual.numel():
        return float("inf")
    error = (expected.double().flatten() - actual.flatten()).abs().max()
    return float(error / expected.abs().max().clamp(min=1e-30))


def _remarks(
    mapping: ChipMapping, weights: Sequence[LayerWeights | None], values: Sequence[Tensor]
) -> tuple[str, ...]:
    found = [f"{note}." for note in mapping.notes]
    found += [f"Computed by the host, not in the files: {item}." for item in mapping.outside]
    if (fold := input_fold(weights)) != (1, 1):
        rows, columns = fold
        found.append(
            f"The input is folded {rows}x{columns}, in the order of ai8x-training's fold: channel (row * {columns} + column) * C "
            "+ c holds the pixels (row, column) of channel c."
        )
    if all(one is None or one.settings is None for one in weights):
        narrow = [
            (float(value.abs().max()), layer.name)
            for layer, value in zip(mapping.layers, values, strict=True)
            if not layer.wide
        ]
        largest, name = max(narrow, default=(0.0, ""))
        if largest > HIGHEST:
            found.append(
                f"{name} stores values up to {largest:.3g} on the example inputs; the chip holds up to 127/128 and cuts off what "
                "is larger. Train with these limits (ai8x layers do), or scale the weights."
            )
    return tuple(found)
