"""Widths at which a chip wastes nothing.

Beyond 64 channels every pass computes a multiple of 4, so only multiples of 4 times the number of passes differ in cost: of 4
up to 64, of 8 up to 128, of 12 up to 192.
"""

from __future__ import annotations

from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.words import output_slots


def useful_widths(channels: int, chip: Chip) -> tuple[int, ...]:
    """Return the widths below `channels` that are worth having, largest first, and `channels` itself in front.

    >>> from torchthin.max7800x.cost.table import MAX78000
    >>> useful_widths(76, MAX78000)
    (76, 72, 64, 60, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4)
    >>> useful_widths(3, MAX78000)
    (3,)
    """
    step = chip.processors_per_memory
    full = [width for width in range(step, channels, step) if output_slots(width, chip) == width]
    return (channels, *reversed(full))
