"""Analog Devices' MAX78000 and MAX78002: costs, mapping, the target `Chip`, ai8x layers and files, synthesis."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torchthin.max7800x.chips import ChipSpec, list_chips, register_chip
from torchthin.max7800x.target import Chip

if TYPE_CHECKING:
    from torchthin.max7800x.accuracy import chip_accuracy
    from torchthin.max7800x.ai8x.training_file import save_for_training
    from torchthin.max7800x.bits import choose_weight_bits
    from torchthin.max7800x.class_file.source import save_class
    from torchthin.max7800x.report import chip_cost
    from torchthin.max7800x.synthesis.files import ready_for_synthesis, save_for_synthesis
    from torchthin.max7800x.synthesis.integer_model import integer_model

__all__ = [
    "Chip",
    "ChipSpec",
    "chip_accuracy",
    "chip_cost",
    "choose_weight_bits",
    "integer_model",
    "list_chips",
    "ready_for_synthesis",
    "register_chip",
    "save_class",
    "save_for_synthesis",
    "save_for_training",
]

# What needs torch is imported at first use, so that `torchthin --help` answers without it.
_LAZY = {
    "chip_accuracy": "torchthin.max7800x.accuracy",
    "chip_cost": "torchthin.max7800x.report",
    "choose_weight_bits": "torchthin.max7800x.bits",
    "integer_model": "torchthin.max7800x.synthesis.integer_model",
    "ready_for_synthesis": "torchthin.max7800x.synthesis.files",
    "save_class": "torchthin.max7800x.class_file.source",
    "save_for_synthesis": "torchthin.max7800x.synthesis.files",
    "save_for_training": "torchthin.max7800x.ai8x.training_file",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
