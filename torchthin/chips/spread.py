"""Which processors read which feature map, where kernel memory or data memory would run full otherwise.

Every map may start at any fourth processor, and with it start the kernels of the layers that read it. ADI's tool leaves the
choice to the user; maps that start at processor 0 are the usual one, and stay where they fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from torchthin.chips.chip import Chip
from torchthin.chips.data import Block

Placement = TypeVar("Placement")
_SWEEPS = 4


def spread(
    blocks: Iterable[Block],
    chip: Chip,
    place: Callable[[Mapping[int, int]], Placement],
    excess: Callable[[Placement], tuple[int, ...]],
) -> Placement:
    """Move maps one by one, each to where `excess` is least, until nothing is in excess or no move helps.

    Args:
        blocks: what can be moved.
        chip: where it lies.
        place: first map of a block -> first processor, to a placement; without a map it starts at 0.
        excess: what does not fit, most important first; all zeros: it fits.
    """
    starts: dict[int, int] = {}
    best = place(starts)
    movable = [block for block in blocks if block.processors < chip.processors]
    for _ in range(_SWEEPS):
        before = best
        for block in sorted(movable, key=lambda one: -one.processors):
            if not any(excess(best)):
                return best
            places = range(0, chip.processors - block.processors + 1, chip.processors_per_memory)
            for start in places:
                tried = place({**starts, block.maps[0]: start})
                if excess(tried) < excess(best):
                    best, starts = tried, {**starts, block.maps[0]: start}
        if best is before:
            break
    return best
