"""Analog Devices' MAX78000 and MAX78002: costs, mapping, the target `Chip`, ai8x layers and files, synthesis."""

from torchthin.max7800x.target import Chip

__all__ = ["Chip"]
