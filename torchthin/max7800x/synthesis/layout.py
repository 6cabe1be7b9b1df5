"""What a description of the user's decides of where maps lie: layers that stream, and the processors that they write for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torchthin.errors import InputError
from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.layer import Layer, passes
from torchthin.max7800x.cost.streaming import MOST_STREAMING, can_stream
from torchthin.max7800x.synthesis.description import Entry


@dataclass(frozen=True)
class Layout:
    """It decides where layers stream; else maps are placed by `torchthin.max7800x.cost`."""

    streaming: int = 0
    """So many first layers stream."""
    outputs: tuple[int | None, ...] = ()
    """Layer -> mask of the processors that it writes for; None: it says none."""

    @classmethod
    def of_description(cls, layers: Sequence[Entry], path: str) -> Layout:
        """Read the layers of a description.

        Raises:
            InputError: a layer that streams comes after one that does not, or too many stream.
        """
        said = [bool(one.get("streaming")) for one in layers]
        count = sum(said)
        if count > MOST_STREAMING or not all(said[:count]):
            raise InputError(
                f"{path}: `streaming` must be at the first layers, at most {MOST_STREAMING}, without a gap. Got it at layers "
                f"{', '.join(str(number) for number, streams in enumerate(said) if streams)}."
            )
        following = [*(one.get("processors") for one in layers[1:]), None]
        masks = (one.get("output_processors", after) for one, after in zip(layers, following, strict=True))
        return (
            cls(count, tuple(None if mask is None else mask_number(mask) for mask in masks))
            if count
            else cls()
        )

    def of(self, layers: Sequence[Layer], chip: ChipSpec) -> tuple[Layer, ...]:
        """Return layers with the slots that stay idle where maps start within a data memory, or have holes.

        Raises:
            InputError: they cannot stream as the description says.
        """
        if not self.streaming:
            return tuple(layers)
        if not can_stream(layers, self.streaming):
            raise InputError(
                f"The first {self.streaming} layers cannot stream: they must be a chain from the input, followed by other "
                "layers, and no later layer may read a map inside it. Correct `streaming` in the network description."
            )
        masks = [*self.outputs, *[None] * len(layers)]
        pairs = zip(layers, masks, strict=False)
        return tuple(layer if mask is None else _with_idle_slots(layer, mask, chip) for layer, mask in pairs)


BY_COST = Layout()
"""All maps are placed here."""


def _with_idle_slots(layer: Layer, mask: int, chip: ChipSpec) -> Layer:
    count = passes(layer.out_channels, chip)[1]
    mask = with_processors(mask, count)
    first = ((mask & -mask).bit_length() - 1) // chip.processors_per_memory * chip.processors_per_memory
    return replace(layer, idle_slots=mask.bit_length() - first - count)


def with_processors(mask: int, count: int) -> int:
    """Return a mask as it is where it has so many processors, else so many from its first one on.

    >>> hex(with_processors(0xFF00, 8)), hex(with_processors(0xFF00, 4)), hex(with_processors(0xF0F0, 8))
    ('0xff00', '0xf00', '0xf0f0')
    """
    if mask.bit_count() == count:
        return mask
    return ((1 << count) - 1) << ((mask & -mask).bit_length() - 1)


def mask_number(mask: Any) -> int:
    """Return a mask, in any of the spellings that ai8xize.py reads, as a number."""
    return int(mask.replace(".", "").replace("_", ""), 16) if isinstance(mask, str) else int(mask)
