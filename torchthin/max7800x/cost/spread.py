"""Which processors read which feature map, where kernel memory or data memory would run full otherwise.

Every map may start at any fourth processor, and with it start the kernels of the layers that read it. ADI's tool leaves the
choice to the user; maps that start at processor 0 are the usual one, and stay where they fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.data import Block

Placement = TypeVar("Placement")
Starts = dict[int, int]
"""First map of a block -> its first processor; 0 where there is none."""
_SWEEPS = 4


def spread(
    demands: Sequence[tuple[Block, int]],
    chip: Chip,
    place: Callable[[Mapping[int, int]], Placement],
    excess: Callable[[Placement], tuple[int, ...]],
) -> Placement:
    """Return the first placement found that fits, else the best one.

    From several beginnings maps are moved one by one, each to where `excess` is least, until no move helps.

    Args:
        demands: what can be moved, with the kernel words of the layers that read it.
        chip: where it lies.
        place: starts to a placement.
        excess: what does not fit, most important first; all zeros: it fits.
    """
    movable = [(block, words) for block, words in demands if block.processors < chip.processors]
    best = None
    for starts in _beginnings(movable, chip):
        found = _descend(starts, [block for block, _ in movable], chip, place, excess)
        if best is None or excess(found) < excess(best):
            best = found
        if not any(excess(best)):
            break
    assert best is not None
    return best


def _beginnings(movable: Sequence[tuple[Block, int]], chip: Chip) -> list[Starts]:
    """All at processor 0; each where the processors hold least, in three orders."""
    orders: tuple[Callable[[tuple[Block, int]], int], ...] = (
        lambda item: -item[0].processors,
        lambda item: -item[1],
        lambda item: -item[0].processors * item[1],
    )
    return [{}, *(_least_loaded(sorted(movable, key=order), chip) for order in orders)]


def _least_loaded(demands: Sequence[tuple[Block, int]], chip: Chip) -> Starts:
    loads = [0] * chip.processors
    starts: Starts = {}
    for block, words in demands:
        best = min(_places(block, chip), key=lambda first: max(loads[first : first + block.processors]))
        for number in range(best, best + block.processors):
            loads[number] += words
        starts[block.maps[0]] = best
    return starts


def _places(block: Block, chip: Chip) -> range:
    return range(0, chip.processors - block.processors + 1, chip.processors_per_memory)


def _descend(
    starts: Starts,
    blocks: Sequence[Block],
    chip: Chip,
    place: Callable[[Mapping[int, int]], Placement],
    excess: Callable[[Placement], tuple[int, ...]],
) -> Placement:
    best = place(starts)
    for _ in range(_SWEEPS):
        before = best
        for block in sorted(blocks, key=lambda one: -one.processors):
            for first in _places(block, chip):
                if not any(excess(best)):
                    return best
                tried = place({**starts, block.maps[0]: first})
                if excess(tried) < excess(best):
                    best, starts = tried, {**starts, block.maps[0]: first}
        if best is before:
            break
    return best
