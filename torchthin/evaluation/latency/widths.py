"""At which widths a layer is timed, and what it takes at those between."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torchthin.selection.kernel_widths import block_of

_POINTS = 8
"""Widths of an axis beside the full one, of a layer with one axis or two that change."""
_MOST = 64
"""Measurements of one layer."""

Sizes = tuple[int, ...]


def grid(size: int, kernel: int, axes: int) -> Sizes:
    """Return the widths at which an axis is timed: multiples of its block, evenly spread, and the full width.

    >>> grid(64, 16, 1), grid(256, 16, 2), grid(30, 8, 1)
    ((16, 32, 48, 64), (32, 64, 96, 128, 160, 192, 224, 256), (4, 8, 12, 16, 20, 24, 28, 30))
    """
    block = block_of(size, kernel)
    points = min(_POINTS, max(int(_MOST ** (1 / axes) + 1e-9), 2))
    steps = size // block
    chosen = {max(round(number * steps / points), 1) * block for number in range(1, points + 1)}
    return tuple(sorted({*chosen, block, size} if points < _POINTS else {*chosen, size}))


@dataclass
class Interpolated:
    """The time of a layer at any widths: linear between those that were measured, at whole blocks.

    A kernel works on blocks of channels, so a width stands for the next multiple of its block.
    """

    grids: tuple[Sizes, ...]
    """The widths of each axis, ascending; the last is the full one."""
    blocks: Sizes
    times: Mapping[Sizes, float]
    _found: dict[Sizes, float] = field(default_factory=dict)

    def __call__(self, sizes: Sizes) -> float:
        """Return nanoseconds."""
        if sizes not in self._found:
            self._found[sizes] = self._at(sizes)
        return self._found[sizes]

    def _at(self, sizes: Sizes) -> float:
        corners = [_corners(*each) for each in zip(sizes, self.grids, self.blocks, strict=True)]
        total = 0.0
        for chosen in itertools.product(*corners):
            share = 1.0
            for _, part in chosen:
                share *= part
            total += share * self.times[tuple(width for width, _ in chosen)]
        return total


def _corners(size: int, widths: Sequence[int], block: int) -> list[tuple[int, float]]:
    """Return the measured widths around a size, and the share of each."""
    whole = min(-(-size // block) * block, widths[-1])
    above = bisect_left(widths, whole)
    if widths[above] == whole or above == 0:
        return [(widths[above], 1.0)]
    low, high = widths[above - 1], widths[above]
    share = (whole - low) / (high - low)
    return [(low, 1 - share), (high, share)]
