"""The state dict that ADI's quantize.py and ai8xize.py read.

Keys have three parts and stand in the order of the layers: the tools count weights, and never compare names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchthin.max7800x.cost.layer import Layer
from torchthin.max7800x.synthesis.kernels import SETTINGS, Kernels


def names_of(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return a name for every layer that no other one has: its module path."""
    return tuple(layer.name.replace("#", "_") for layer in layers)


def state_dict(layers: Sequence[Layer], kernels: Sequence[Kernels | None]) -> dict[str, Tensor]:
    """Return float32 weights and biases as ``<layer>.op.weight`` and ``<layer>.op.bias``, behind the six settings of each.

    Plain layers get the settings of a layer in float training; `weight_bits` is 0 there, which means 8.
    """
    found: dict[str, Tensor] = {}
    for name, layer, numbers in zip(names_of(layers), layers, kernels, strict=True):
        if numbers is None:
            continue
        for setting, value in _settings(layer, numbers).items():
            found[f"{name}.{setting}"] = value
        found[f"{name}.op.weight"] = numbers.weight.float().contiguous()
        if numbers.bias is not None:
            found[f"{name}.op.bias"] = numbers.bias.float().contiguous()
    return found


def _settings(layer: Layer, numbers: Kernels) -> dict[str, Tensor]:
    default = {
        "output_shift": torch.zeros(1),
        "weight_bits": torch.zeros(1, dtype=torch.int64),
        "bias_bits": torch.zeros(1, dtype=torch.int64),
        "quantize_activation": torch.zeros(1, dtype=torch.bool),
        "adjust_output_shift": torch.zeros(1, dtype=torch.bool),
        "shift_quantile": torch.ones(1),
    }
    settings = {**default, **(numbers.settings or {})}
    if layer.weight_bits != 8 and not int(settings["weight_bits"]):
        settings["weight_bits"] = torch.tensor([layer.weight_bits])
    return {name: settings[name] for name in SETTINGS}
