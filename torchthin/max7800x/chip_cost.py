"""`chip_cost`: what a model costs on a chip, and whether it fits."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchthin.graph.inputs import as_inputs, on_device_of
from torchthin.graph.model import check_model
from torchthin.max7800x.cost.network import network_cost
from torchthin.max7800x.cost.table import chip_named
from torchthin.max7800x.mapping import map_model
from torchthin.max7800x.report import ChipReport


def chip_cost(
    model: nn.Module, example_inputs: Any, chip: str = "MAX78000", weight_bits: int = 8
) -> ChipReport:
    """Return what `model`, which is left as it is, costs on `chip`.

    Args:
        model: any model made of layers that the chip can run; what it cannot run is named in the result.
        example_inputs: one example (N, C, H, W) or (N, C, L); its size counts, its values do not.
        chip: MAX78000 or MAX78002.
        weight_bits: 1, 2, 4 or 8, of layers that do not say it themselves.

    Raises:
        InputError: model, inputs or chip cannot be used.
    """
    known = chip_named(chip)
    check_model(model, "chip_cost")
    mapping = map_model(model, on_device_of(model, as_inputs(example_inputs)), known, weight_bits)
    problems = mapping.problems or (() if mapping.layers else ("no layer of the model runs on the chip",))
    return ChipReport(network_cost(mapping.layers, known), problems, mapping.outside, mapping.notes)
