"""The allocator: how many channels each unit (a group, or several that stay equal) loses, at the least loss within a target.

Budgets and chips use the same steps. A unit has levels; level 0 is its full width. `excess` says how far all levels together are
from the target; 0 and less: it is reached.

- `descend` takes the move with the most gain for its loss until the target is reached. It looks at several moves of every unit,
  and at pairs where no single move gains: on a chip a consumer saves only where 64 inputs are crossed.
- `descend_convex` does the same where losses are convex and savings only shrink, with a heap and one move for each unit (greedy
  on the marginal loss for each saved share of the target; Everett 1963 shows why that is the best choice among the corners).
- `give_back` and `exchange` return what was not needed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Protocol

Levels = tuple[int, ...]
"""One level for each unit."""
Excess = Callable[[Levels], float]


class Unit(Protocol):
    """Channels that are decided about together."""

    def loss(self, level: int) -> float:
        """Return what the unit loses at a level; 0 at level 0, never falling."""

    def narrower(self, level: int) -> Sequence[int]:
        """Return the higher levels to look at next, the nearest first."""

    def wider(self, level: int) -> Sequence[int]:
        """Return the lower levels to look at next, the nearest last."""


def moved(levels: Levels, number: int, level: int) -> Levels:
    """Return `levels` with another one for a unit."""
    return (*levels[:number], level, *levels[number + 1 :])


class Allocator:
    """The units and how far they are from the target, with every excess worked out once."""

    def __init__(self, units: Sequence[Unit], excess: Excess) -> None:
        self._units = units
        self._measure = excess
        self._known: dict[Levels, float] = {}

    def excess(self, levels: Levels) -> float:
        """Return how far the target is."""
        if levels not in self._known:
            self._known[levels] = self._measure(levels)
        return self._known[levels]

    def loss(self, levels: Levels) -> float:
        """Return the loss of all units together."""
        return sum(unit.loss(level) for unit, level in zip(self._units, levels, strict=True))

    @property
    def tried(self) -> int:
        """How many levels were costed."""
        return len(self._known)

    @property
    def whole(self) -> Levels:
        """Every unit at its full width."""
        return (0,) * len(self._units)

    def descend(self) -> Levels:
        """Return levels at which the target is reached, or beyond which no move gains."""
        levels = self.whole
        while self.excess(levels) > 0:
            firsts = self._narrower(levels)
            step = self._best(levels, firsts)
            if step is None:  # two at once: two producers of one input of more than 64 channels
                step = self._best(levels, [pair for one in firsts for pair in self._narrower(one)])
            if step is None:
                break
            levels = step
        return levels

    def _narrower(self, levels: Levels) -> list[Levels]:
        return [
            moved(levels, number, level)
            for number, unit in enumerate(self._units)
            for level in unit.narrower(levels[number])
        ]

    def _best(self, levels: Levels, candidates: Sequence[Levels]) -> Levels | None:
        """Return the candidate with the most gain for its loss; gains beyond the target count for nothing."""
        excess, loss = self.excess(levels), self.loss(levels)

        def rate(candidate: Levels) -> float:
            gain = excess - max(self.excess(candidate), 0.0)
            return gain / max(self.loss(candidate) - loss, 1e-9)

        best = max(candidates, key=rate, default=None)
        return best if best is not None and rate(best) > 0 else None

    def descend_convex(self) -> Levels:
        """Return what `descend` does where losses are convex and what a move saves only shrinks as others are taken."""
        levels = self.whole
        excess = self.excess(levels)

        def rate(number: int) -> float | None:
            """Return the loss for each saved share of a unit's next move; None: there is none."""
            unit, level = self._units[number], levels[number]
            following = next(iter(unit.narrower(level)), None)
            if following is None:
                return None
            saved = excess - self._measure(moved(levels, number, following))
            return (unit.loss(following) - unit.loss(level)) / max(saved, 1e-12)

        first = [(rate(number), number) for number in range(len(self._units))]
        heap = [(value, number, 0) for value, number in first if value is not None]
        heapq.heapify(heap)
        while excess > 0 and heap:
            _, number, level = heapq.heappop(heap)
            now = rate(number) if level == levels[number] else None
            if now is None:
                continue
            if heap and now > heap[0][0]:  # what a move saves has shrunk since: rates only grow
                heapq.heappush(heap, (now, number, level))
                continue
            levels = moved(levels, number, self._units[number].narrower(level)[0])
            excess = self._measure(levels)
            following = rate(number)
            if following is not None:
                heapq.heappush(heap, (following, number, levels[number]))
        return levels

    def give_back(self, levels: Levels, fixed: int | None = None) -> Levels:
        """Widen units (but not `fixed`), those first that save most loss, as long as the target is reached."""
        while True:
            holding = [
                wider
                for number, unit in enumerate(self._units)
                for level in unit.wider(levels[number])
                if number != fixed and self.excess(wider := moved(levels, number, level)) <= 0
            ]
            if not holding:
                return levels
            levels = min(holding, key=self.loss)

    def exchange(self, levels: Levels) -> Levels:
        """Narrow one unit by a level where that lets others be wider at less loss in all."""
        improved = True
        while improved:
            improved = False
            for number, unit in enumerate(self._units):
                for level in unit.narrower(levels[number])[:2]:
                    start = moved(levels, number, level)
                    if self.excess(start) > 0:
                        continue
                    tried = self.give_back(start, number)
                    if self.loss(tried) < self.loss(levels) - 1e-9:
                        levels, improved = tried, True
                        break
        return levels
