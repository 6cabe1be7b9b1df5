"""Which of many models are worth having: pure functions of two figures each, the value (higher is better) and the cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def front(values: Sequence[float], costs: Sequence[float]) -> tuple[int, ...]:
    """Return the numbers of the points that no other beats, by rising cost; equal points are all kept.

    A point beats another if it is as good in both figures and better in one (Pareto dominance). Takes n log n steps.

    >>> front([0.9, 0.8, 0.7, 0.85], [100, 50, 60, 40])
    (3, 0)
    """
    if not len(values):
        return ()
    value, cost = np.asarray(values, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    order = np.lexsort((-value, cost))
    value, cost = value[order], cost[order]
    best = np.maximum.accumulate(value)
    cheaper = np.concatenate(([-np.inf], best[:-1]))  # the best value before a point
    fresh = value > cheaper
    # A point that ties with the best before it is kept only if that one is the same point.
    start = np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))
    same = (value == value[start]) & (cost == cost[start])
    return tuple(int(number) for number in order[fresh | same])


def within_of(values: Sequence[float], dense: float, within: float) -> tuple[bool, ...]:
    """Return which values lose at most the share `within` of the dense one: ``v >= dense - within * |dense|``.

    >>> within_of([0.90, 0.80], dense=0.905, within=0.01)
    (True, False)
    """
    return tuple(value >= dense - within * abs(dense) for value in values)


def smallest(values: Sequence[float], costs: Sequence[float], good: Sequence[bool]) -> int | None:
    """Return the number of the cheapest point among the good ones (of equal ones the best, then the first); None: no such.

    >>> smallest([0.9, 0.8, 0.7], [100, 50, 10], [True, True, False])
    1
    """
    numbers = [number for number, ok in enumerate(good) if ok]
    return min(numbers, key=lambda n: (costs[n], -values[n], n), default=None)
