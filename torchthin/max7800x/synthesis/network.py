"""A model made ready for a chip's own tools: its layers, where they lie, the numbers of each, and the proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from torchthin.errors import InputError, ProofError, TargetMissedError
from torchthin.graph.inputs import as_inputs, on_device_of
from torchthin.graph.model import check_model
from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.layer import Size
from torchthin.max7800x.cost.limits import violations
from torchthin.max7800x.cost.network import network_cost
from torchthin.max7800x.cost.table import chip_named
from torchthin.max7800x.mapping import ChipMapping, map_model
from torchthin.max7800x.report import ChipReport
from torchthin.max7800x.synthesis.captured import Captured, capture
from torchthin.max7800x.synthesis.description import Entry, entries
from torchthin.max7800x.synthesis.kernels import Kernels, all_kernels, folded_input
from torchthin.max7800x.synthesis.simulation import simulate
from torchthin.max7800x.synthesis.state import state_dict

TOLERANCE = 1e-5
"""Of the largest value of a layer's output: what is written has 24 bits of mantissa, the comparison 53."""
HIGHEST = 127 / 128
"""What the chip holds between layers."""


@dataclass(frozen=True)
class ChipNetwork:
    """What is written for a chip."""

    chip: Chip
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
    """What a person has to know, one sentence each."""
    sample: Tensor
    """The example input as the chip takes it, folded, (N, C, ...)."""


def chip_network(
    model: nn.Module, example_inputs: Any, chip: str = "MAX78000", weight_bits: int = 8
) -> ChipNetwork:
    """Return everything that is to be written for `model`, which is left as it is; see `save_for_synthesis`.

    Raises:
        InputError: something of the model does not run on the chip; the message names the layer and the limit.
        TargetMissedError: it runs, and does not fit.
        ProofError: the layers as written compute something else than the model.
    """
    known = chip_named(chip)
    check_model(model, "chip_network")
    inputs = on_device_of(model, as_inputs(example_inputs))
    mapping = map_model(model, inputs, known, weight_bits)
    _refuse_what_does_not_run(mapping, known)
    report = ChipReport(network_cost(mapping.layers, known), (), mapping.outside, mapping.notes)
    if not report.fits:
        first, *more = report.obstacles
        others = f" And {len(more)} more: see torchthin chip." if more else ""
        raise TargetMissedError(
            f"The model does not fit {known.name}, so nothing was written for it. {first}.{others}"
        )
    described = entries(mapping.layers, report.cost, known, mapping.outputs)
    captured = capture(model, inputs, mapping)
    kernels = all_kernels(model, mapping, captured)
    return _proved(known, mapping, report, kernels, described, captured)


def _refuse_what_does_not_run(mapping: ChipMapping, chip: Chip) -> None:
    found = [*mapping.problems, *(text for layer in mapping.layers for text in violations(layer, chip))]
    if not mapping.layers:
        found = ["no layer of the model runs on the chip"]
    if found:
        others = f" And {len(found) - 1} more: see torchthin chip." if len(found) > 1 else ""
        raise InputError(
            f"The model does not run on {chip.name}, so nothing was written for it. {found[0]}.{others}"
        )


def _proved(
    chip: Chip,
    mapping: ChipMapping,
    report: ChipReport,
    kernels: Sequence[Kernels | None],
    described: tuple[Entry, ...],
    captured: Captured,
) -> ChipNetwork:
    """Return the network, once its layers agree with the model's on the example inputs."""
    written = [_as_written(one) for one in kernels]
    values = simulate(mapping.layers, written, captured.image)
    errors = {}
    for number, (layer, origin) in enumerate(zip(mapping.layers, mapping.origins, strict=True)):
        if origin.done in captured.results:
            errors[layer.name] = _distance(captured.results[origin.done], values[number])
    wrong = next((name for name, error in errors.items() if not error <= TOLERANCE), None)
    if wrong is not None:
        raise ProofError(
            f"{wrong}: as written for {chip.name} it differs from the model by {errors[wrong]:.1e} of its largest value, so "
            "nothing was written. What the chip limits (sums beyond its range) must be limited in the model as well."
        )
    if not errors:
        raise ProofError("No layer's output could be compared with the model's, so nothing was written.")
    fold = next((one.fold for one in written if one is not None and one.fold != (1, 1)), (1, 1))
    return ChipNetwork(
        chip,
        mapping,
        report,
        state_dict(mapping.layers, written),
        described,
        max(errors.values()),
        len(errors),
        _remarks(mapping, written, values, fold),
        folded_input(captured.image, fold),
    )


def _as_written(kernels: Kernels | None) -> Kernels | None:
    """Return the numbers that a float32 file holds."""
    if kernels is None:
        return None
    bias = None if kernels.bias is None else kernels.bias.float().double()
    return replace(kernels, weight=kernels.weight.float().double(), bias=bias)


def _distance(expected: Tensor, actual: Tensor) -> float:
    if expected.numel() != actual.numel():
        return float("inf")
    error = (expected.double().flatten() - actual.flatten()).abs().max()
    return float(error / expected.abs().max().clamp(min=1e-30))


def _remarks(
    mapping: ChipMapping, kernels: Sequence[Kernels | None], values: Sequence[Tensor], fold: Size
) -> tuple[str, ...]:
    found = [f"{note}." for note in mapping.notes]
    found += [f"Computed by the host, not in the files: {item}." for item in mapping.outside]
    if fold != (1, 1):
        rows, columns = fold
        found.append(
            f"The input is folded {rows}x{columns}, in the order of ai8x-training's fold: channel (row * {columns} + column) * C "
            "+ c holds the pixels (row, column) of channel c."
        )
    if all(one is None or one.settings is None for one in kernels):
        narrow = [
            (float(v.abs().max()), layer.name)
            for layer, v in zip(mapping.layers, values, strict=True)
            if not layer.wide
        ]
        largest, name = max(narrow, default=(0.0, ""))
        if largest > HIGHEST:
            found.append(
                f"{name} stores values up to {largest:.3g} on the example inputs; the chip holds up to 127/128 and cuts off what "
                "is larger. Train with these limits (ai8x layers do), or scale the weights."
            )
    return tuple(found)
