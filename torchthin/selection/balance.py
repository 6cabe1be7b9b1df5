"""Selection under balances: equal numbers must go from certain sets of channels (conv groups, norm groups, split halves).

How many go from each class of channels is a small integer program, solved by scipy's HiGHS; which ones go within a class is
decided by score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from torchthin.dependency.groups import Group, IntArray

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def balanced_keep(
    group: Group, scores: FloatArray, count: int, movable: BoolArray | None = None
) -> BoolArray:
    """Return which channels stay when at most `count` go, as many as the group's balances allow.

    Args:
        group: channels with balances, each (blocks, n) of channel numbers, -1 for a place that cannot go.
        scores: (channels,), higher = keep.
        count: channels to remove at most.
        movable: (channels,), those that may go; None: all.

    Returns:
        bool (channels,), True = keep. From every row of a balance equal numbers go, and something of every row stays.

    >>> halves = Group("g", 6, (), balances=(np.array([[0, 1, 2], [3, 4, 5]]),))
    >>> balanced_keep(halves, np.array([0., 1, 2, 5, 4, 3]), 3)
    array([False,  True,  True,  True,  True, False])
    """
    classes, members, sizes = _classes(group)
    movable = np.ones(group.size, np.bool_) if movable is None else movable
    most = np.bincount(members[movable], minlength=sizes.size).astype(np.int64)
    numbers = _equal_counts(group, classes, most, count)
    if numbers is None:
        numbers = _counts(group, classes, most, count)
    keep = np.ones(group.size, np.bool_)
    channels = np.flatnonzero(movable)
    channels = channels[np.lexsort((scores[channels], members[channels]))]
    rank = np.arange(channels.size) - np.repeat(np.cumsum(most) - most, most)
    keep[channels[rank < numbers[members[channels]]]] = False
    return keep


def must_stay(group: Group, scores: FloatArray) -> BoolArray:
    """Return the channels that stay whatever is asked: the best one of every parameter axis that has only some of the group's.

    Balances make one group of the producers of a concatenation, and the lowest channels may all be those of one producer.

    Args:
        group: channels with balances.
        scores: (channels,), higher = keep.
    """
    covers: dict[tuple[str, int], list[IntArray]] = {}
    for member in group.members:
        if member.channels is not None:
            covers.setdefault((member.parameter, member.axis), []).append(member.channels)
    parts = {np.unique(np.concatenate(found)).tobytes() for found in covers.values()}
    stays = np.zeros(group.size, np.bool_)
    for part in sorted((np.frombuffer(part, np.int64) for part in parts), key=lambda part: part.size):
        if part.size and not stays[part].any():
            stays[part[np.argmax(scores[part])]] = True
    return stays


def _incidence(group: Group) -> list[npt.NDArray[np.int64]]:
    """Per balance: how often each channel stands in each row, shape (blocks, channels)."""
    tables = []
    for balance in group.balances:
        table = np.zeros((balance.shape[0], group.size), np.int64)
        row = np.broadcast_to(np.arange(balance.shape[0])[:, None], balance.shape)
        np.add.at(table, (row[balance >= 0], balance[balance >= 0]), 1)
        tables.append(table)
    return tables


def _classes(group: Group) -> tuple[npt.NDArray[np.int64], IntArray, IntArray]:
    """Channels that stand in the same rows form a class: (row counts per class, class of each channel, sizes)."""
    tables = _incidence(group)
    code = np.zeros(group.size, np.int64)
    for table in tables:  # whole numbers sort in a hundredth of the time that rows take
        row = table.argmax(0) + 1 if bool((table.sum(0) == 1).all()) else _row_numbers(table.T)
        code = np.unique(code * (row.max() + 1) + row, return_inverse=True)[1].reshape(-1)
    _, first = np.unique(code, return_index=True)
    classes, of_code = np.unique(np.concatenate(tables).T[first], axis=0, return_inverse=True)
    members = of_code.reshape(-1)[code].astype(np.int64)
    return classes, members, np.bincount(members).astype(np.int64)


def _row_numbers(rows: npt.NDArray[np.int64]) -> IntArray:
    """Return a number for each row of a matrix, equal for equal rows."""
    return np.asarray(np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def _equal_counts(
    group: Group, classes: npt.NDArray[np.int64], most: IntArray, count: int
) -> IntArray | None:
    """How many go from each class where every class is one row of every balance; None where it is not.

    Nearly always: then equal numbers go from all classes, and no program need be solved.
    """
    kinds = most.size
    start = 0
    for balance in group.balances:
        part = classes[:, start : start + balance.shape[0]]
        start += balance.shape[0]
        if part.shape != (kinds, kinds) or (part.sum(0) != 1).any() or (part.sum(1) != 1).any():
            return None
    widths = [balance.shape[1] for balance in group.balances]
    return np.full(kinds, min(count // kinds, min(widths) - 1, int(most.min())), np.int64)


def _counts(group: Group, classes: npt.NDArray[np.int64], sizes: IntArray, count: int) -> IntArray:
    """How many go from each class: as many as possible up to `count`, spread as evenly over classes as that allows."""
    kinds = sizes.size
    even = count / group.size * sizes
    rows: list[FloatArray] = []
    low: list[float] = []
    high: list[float] = []

    def demand(removed: FloatArray, distance: FloatArray, least: float, most: float) -> None:
        rows.append(np.concatenate([removed, distance]))
        low.append(least)
        high.append(most)

    none, unit = np.zeros(kinds), np.eye(kinds)
    start = 0
    for balance in group.balances:
        table = classes[:, start : start + balance.shape[0]].T.astype(np.float64)
        start += balance.shape[0]
        for row in table[1:]:
            demand(row - table[0], none, 0, 0)
        for row in table:
            demand(row, none, 0, balance.shape[1] - 1)
    demand(np.ones(kinds), none, 0, count)
    for kind in range(kinds):
        demand(unit[kind], -unit[kind], -np.inf, even[kind])
        demand(unit[kind], unit[kind], even[kind], np.inf)
    solution = milp(
        np.concatenate([np.full(kinds, -4.0), np.ones(kinds)]),
        constraints=LinearConstraint(np.array(rows), low, high),
        integrality=np.concatenate([np.ones(kinds), none]),
        bounds=Bounds(0, np.concatenate([sizes, np.full(kinds, np.inf)])),
    )
    if solution.x is None:
        return np.zeros(kinds, np.int64)
    return np.asarray(np.round(solution.x[:kinds]), dtype=np.int64)


def even_shares(tables: Sequence[npt.NDArray[np.int64]]) -> IntArray | None:
    """Return the smallest numbers of channels, one or more of every class, that keep all balances when they go together.

    Args:
        tables: per balance how often a channel of each class stands in each row, shape (classes, blocks).

    Returns:
        int (classes,); None when there are no such numbers.

    >>> even_shares([np.array([[1, 0], [0, 8]])])  # single channels against whole heads of eight
    array([8, 1])
    """
    kinds = tables[0].shape[0]
    rows = np.concatenate([(table[:, 1:] - table[:, :1]).T for table in tables]).astype(np.float64)
    if not rows.sum(axis=1).any():
        return np.ones(kinds, np.int64)
    solution = milp(
        np.ones(kinds),
        constraints=LinearConstraint(rows, 0, 0),
        integrality=np.ones(kinds, np.int64),
        bounds=Bounds(1, np.inf),
    )
    return None if solution.x is None else np.asarray(np.round(solution.x), dtype=np.int64)
