"""Which channels to give up for a chip: the least importance lost for a given gain.

Every move takes one unit (a group of channels, or several that must stay equal) from its width to any narrower one of the
chip's grid, also far below: what a consumer saves shows only where 64 inputs are crossed. A candidate is costed by the chip
model. Moves are taken by gain over loss until the targets hold; then what turned out not to be needed is given back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Widths = tuple[int, ...]
_STEPS = 4
"""Neighbouring widths that are looked at in one move."""
_PASS = 64
"""Inputs of one pass: a width that is a multiple saves more than those just above."""


@dataclass(frozen=True)
class Unit:
    """Channels that are decided about together."""

    name: str
    losses: Mapping[int, float]
    """Width -> share of the importance that goes; the full width loses 0."""

    @property
    def widths(self) -> tuple[int, ...]:
        """All widths, largest first."""
        return tuple(sorted(self.losses, reverse=True))

    def penalty(self, width: int) -> float:
        """Return ``-log(share kept)``: the narrower a unit is already, the more it costs to take another channel."""
        return -math.log(max(1 - self.losses[width], 1e-12))


@dataclass(frozen=True)
class Found:
    """The outcome of a search."""

    widths: Widths
    reached: bool
    """Whether all targets hold."""
    tried: int
    """Candidates that were costed."""


def search(units: Sequence[Unit], excess: Callable[[Widths], float]) -> Found:
    """Return widths, one for each unit, at which `excess` is 0, at little penalty.

    Args:
        units: what may become narrower.
        excess: of widths, how far they are from the targets; 0: all hold. Called once for each candidate.
    """
    return _Search(units, excess).run()


class _Search:
    def __init__(self, units: Sequence[Unit], excess: Callable[[Widths], float]) -> None:
        self._units = units
        self._measure = excess
        self._known: dict[Widths, float] = {}

    def run(self) -> Found:
        widths = tuple(unit.widths[0] for unit in self._units)
        while self._excess(widths) > 0:
            step = self._best_step(widths) or self._best_pair(widths)
            if step is None:
                break
            widths = step
        reached = self._excess(widths) <= 0
        if reached:
            widths = self._exchanged(self._given_back(widths))
        return Found(widths, reached, len(self._known))

    def _excess(self, widths: Widths) -> float:
        if widths not in self._known:
            self._known[widths] = self._measure(widths)
        return self._known[widths]

    def _penalty(self, widths: Widths) -> float:
        return sum(unit.penalty(width) for unit, width in zip(self._units, widths, strict=True))

    def _narrower(self, widths: Widths) -> list[Widths]:
        """All single moves: a few of the next widths, and all those at which a pass is saved."""
        moves = []
        for number, unit in enumerate(self._units):
            below = [width for width in unit.widths if width < widths[number]]
            chosen = [*below[:_STEPS], *(width for width in below[_STEPS:] if width % _PASS == 0)]
            moves += [(*widths[:number], width, *widths[number + 1 :]) for width in chosen]
        return moves

    def _best_step(self, widths: Widths) -> Widths | None:
        """The move with the most gain for its loss; gains beyond the target count for nothing."""
        return self._best(widths, self._narrower(widths))

    def _best_pair(self, widths: Widths) -> Widths | None:
        """Two moves at once, where none alone gains: two producers of one input of more than 64 channels."""
        firsts = self._narrower(widths)
        return self._best(widths, [pair for one in firsts for pair in self._narrower(one)])

    def _best(self, widths: Widths, candidates: Sequence[Widths]) -> Widths | None:
        excess, penalty = self._excess(widths), self._penalty(widths)

        def rate(candidate: Widths) -> float:
            gain = excess - max(self._excess(candidate), 0.0)
            return gain / max(self._penalty(candidate) - penalty, 1e-9)

        best = max(candidates, key=rate, default=None)
        return best if best is not None and rate(best) > 0 else None

    def _wider(self, widths: Widths) -> list[Widths]:
        moves = []
        for number, unit in enumerate(self._units):
            above = [width for width in unit.widths if width > widths[number]][-_STEPS:]
            moves += [(*widths[:number], width, *widths[number + 1 :]) for width in above]
        return moves

    def _given_back(self, widths: Widths, fixed: int | None = None) -> Widths:
        """Widen units (but not `fixed`), those first that save most penalty, as long as the targets hold."""
        while True:
            holding = [
                wider
                for wider in self._wider(widths)
                if (fixed is None or wider[fixed] == widths[fixed]) and self._excess(wider) <= 0
            ]
            if not holding:
                return widths
            widths = min(holding, key=self._penalty)

    def _exchanged(self, widths: Widths) -> Widths:
        """Narrow one unit by one width where that lets others be wider at less penalty in all."""
        improved = True
        while improved:
            improved = False
            for number, unit in enumerate(self._units):
                narrower = [width for width in unit.widths if width < widths[number]][:2]
                for width in narrower:
                    start = (*widths[:number], width, *widths[number + 1 :])
                    if self._excess(start) > 0:
                        continue
                    tried = self._given_back(start, number)
                    if self._penalty(tried) < self._penalty(widths) - 1e-9:
                        widths, improved = tried, True
                        break
        return widths
