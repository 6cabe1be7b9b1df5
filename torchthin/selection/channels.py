"""Selection: scores + target -> what stays. Exact counts, ties by index.

The count is ``floor(s * n)`` of the double-precision product, as Distiller computes it: 0.29 * 100 is
28.999999999999996 in doubles, so 28 channels go. Among equal scores the lower index goes first. For fixed
scores the selection at a higher sparsity holds the one at a lower sparsity, so a gradual schedule without
training in between ends where one shot ends.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchthin.dependency.groups import Group, IntArray
from torchthin.errors import ConfigError
from torchthin.importance.criteria import lamp_scores
from torchthin.selection.balance import balanced_keep, even_shares, must_stay

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def prune_count(sparsity: float, size: int) -> int:
    """Return ``floor(sparsity * size)``; for a sparsity below 1 that is always less than `size`.

    >>> prune_count(0.5, 19), prune_count(0.29, 100), prune_count(0.9, 1)
    (9, 28, 0)
    """
    return math.floor(sparsity * size)


def _check(target_sparsity: float, scope: str) -> None:
    if not 0 <= target_sparsity < 1:
        raise ConfigError(f"The target_sparsity of select must be in [0, 1). Got {target_sparsity!r}.")
    if scope not in ("group", "global"):
        raise ConfigError(f"The scope of select must be 'group' or 'global'. Got {scope!r}.")


def _places(balance: IntArray, size: int) -> IntArray:
    """Return how often each channel stands in each row of `balance`, shape (size, rows)."""
    places = np.zeros((size, balance.shape[0]), dtype=np.int64)
    rows = np.broadcast_to(np.arange(balance.shape[0])[:, None], balance.shape)
    np.add.at(places, (balance[balance >= 0], rows[balance >= 0]), 1)
    return places


def _is_even(places: IntArray) -> NDArray[np.bool_]:
    """Whether the rows of a balance are hit equally, shape of all but the last axis."""
    return np.asarray((places == places[..., :1]).all(axis=-1))


def least_kept(share: float, size: int) -> int:
    """Return how many of `size` must stay when at least `share` of them has to: one at least.

    >>> least_kept(0.1, 64), least_kept(0.0, 64), least_kept(0.25, 8)
    (7, 1, 2)
    """
    return max(1, math.ceil(share * size - 1e-9))


def _units(group: Group, scores: FloatArray, keep_at_least: float) -> IntArray:
    """Return the unit each channel goes with, shape (channels,); -1: it stays whatever is asked.

    Without balances every channel is a unit, and the best ones stay, `keep_at_least` of all and one at least.
    Channels that stand in the same rows of all balances form a cell; a unit is then a round, the next lowest of
    every cell, as many as keep the balances (one of each where that does, eight of a cell against one that stands
    for eight), and the last rounds stay, with the best channel of every member. Channels that no balance concerns are units of
    their own. When rounds cannot keep the balances, nothing of the cells goes.
    """
    balances = group.balances
    places = [_places(balance, scores.size) for balance in balances]
    alone = np.logical_and.reduce([_is_even(each) for each in places], axis=0) if places else np.True_
    alone = np.broadcast_to(alone, scores.shape)
    units = np.where(alone, np.arange(scores.size), -1)
    if alone.all():
        units[np.argsort(scores, kind="stable")[-least_kept(keep_at_least, scores.size) :]] = -1
        return units
    stays = must_stay(group, scores)
    units[stays] = -1
    bound = np.flatnonzero(~alone)
    kinds, cell = np.unique(np.concatenate(places, axis=1)[bound], axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    splits = np.cumsum([each.shape[1] for each in places])[:-1]
    shares = even_shares(np.split(kinds, splits, axis=1))
    if shares is None:
        return units
    best = stays[bound]
    order = np.lexsort((scores[bound], best, cell))
    sizes = np.bincount(cell)
    rounds = int((sizes // shares).min())
    stay = max(least_kept(keep_at_least, rounds), int((-(-np.bincount(cell, best) // shares)).max()))
    rank = np.arange(bound.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    number = rank // np.repeat(shares, sizes)
    units[bound[order]] = np.where(number < rounds - stay, scores.size + number, -1)
    return units


def _lowest(group: Group, scores: FloatArray, count: int) -> NDArray[np.bool_]:
    """Return which channels of one group go: the `count` lowest, or as many as its balances allow."""
    if group.balances:
        return ~balanced_keep(group, scores, count, ~must_stay(group, scores))
    gone = np.zeros(group.size, dtype=np.bool_)
    gone[np.argsort(scores, kind="stable")[: min(count, group.size - 1)]] = True
    return gone


def _cut_sizes(group: Group, gone: BoolArray) -> IntArray:
    """Return how many indices of the group stay on every parameter axis of which some go."""
    stay: dict[tuple[str, int], int] = {}
    cut: set[tuple[str, int]] = set()
    for member in group.members:
        axis = member.parameter, member.axis
        lost = member.removed(~gone).size
        stay[axis] = stay.get(axis, 0) + member.indices.size - lost
        if lost:
            cut.add(axis)
    return np.array([stay[axis] for axis in cut], np.int64)


def _rounded(group: Group, scores: FloatArray, gone: BoolArray, multiple: int) -> BoolArray:
    """Return which channels go so that a multiple stays on every axis that is cut: `gone`, or fewer, the lowest."""
    if multiple == 1:
        return gone
    count = int(gone.sum())
    while count and (_cut_sizes(group, gone) % multiple).any():
        count = min(count, int(gone.sum())) - 1
        gone = _lowest(group, scores, count)
    return gone


def _lowest_units(units: IntArray, scores: FloatArray, count: int) -> NDArray[np.bool_]:
    """Return which channels go: whole units, lowest mean score first, at most `count` channels.

    Units are taken strictly in order: skipping one that is too large would let a higher sparsity select
    something else than a lower one did.
    """
    gone = np.zeros(units.size, dtype=np.bool_)
    movable = np.flatnonzero(units >= 0)
    if not movable.size:
        return gone
    _, number, sizes = np.unique(units[movable], return_inverse=True, return_counts=True)
    number = number.reshape(-1)
    means = np.bincount(number, weights=scores[movable]) / sizes
    order = np.argsort(means, kind="stable")
    taken = np.zeros(sizes.size, dtype=np.bool_)
    taken[order] = np.cumsum(sizes[order]) <= count
    gone[movable] = taken[number]
    return gone


def _relative(scores: FloatArray) -> FloatArray:
    """Return scores divided by their mean: layers of different fan-in become comparable across groups."""
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


def _ranking(
    group: Group, scores: FloatArray, relative: bool, previous: Mapping[str, BoolArray] | None
) -> FloatArray:
    """Return what the channels of `group` are ordered by: channels masked before come first."""
    if scores.shape != (group.size,):
        raise ConfigError(
            f"The scores of group {group.name} must have shape ({group.size},). Got {scores.shape}."
        )
    ranking = _relative(scores) if relative else scores
    if previous is None or group.name not in previous:
        return ranking
    return np.where(previous[group.name], ranking, -np.inf)


def select_channels(
    groups: Iterable[Group],
    scores: Mapping[str, FloatArray],
    target_sparsity: float,
    scope: str = "group",
    previous: Mapping[str, BoolArray] | None = None,
    *,
    keep_at_least: float = 0.0,
    absolute: bool = False,
    round_to: int = 1,
) -> dict[str, BoolArray]:
    """Return which channels of every scored group stay.

    In a group of n channels ``floor(s * n)`` go, fewer where equal numbers must go from blocks; at least one
    channel of every group (of every block) stays. With ``scope="global"`` the count is taken of the channels
    of all groups together, scores are compared relative to their group's mean (as they are, if `absolute`),
    and at least the share `keep_at_least` of every group stays. With `round_to` what stays of a group's part of
    every axis that is cut is a multiple of it: channels come back, the best first, where need be all.

    groups: channels to decide about; a group without scores is left out. scores: group name -> (channels,).
    previous: keeps of an earlier step; a channel masked there goes first, so that masks only grow.
    Returns group name -> bool (channels,), True = keep. Raises `ConfigError` for a target outside [0, 1).
    """
    _check(target_sparsity, scope)
    chosen = [group for group in groups if group.name in scores and group.size]
    rankings = [
        _ranking(group, scores[group.name], scope == "global" and not absolute, previous) for group in chosen
    ]
    if scope == "global" and chosen:
        units = [_units(group, rank, keep_at_least) for group, rank in zip(chosen, rankings, strict=True)]
        sizes = [group.size for group in chosen]
        starts = np.repeat(2 * np.cumsum([0, *sizes[:-1]]), sizes)
        joined = np.concatenate(units)
        joined = np.where(joined < 0, -1, joined + starts)
        count = prune_count(target_sparsity, sum(sizes))
        gone = np.split(_lowest_units(joined, np.concatenate(rankings), count), np.cumsum(sizes)[:-1])
    else:
        gone = [
            _lowest(group, rank, prune_count(target_sparsity, group.size))
            for group, rank in zip(chosen, rankings, strict=True)
        ]
    gone = [
        _rounded(group, rank, lost, math.lcm(round_to, group.multiple))
        for group, rank, lost in zip(chosen, rankings, gone, strict=True)
    ]
    return {group.name: ~lost for group, lost in zip(chosen, gone, strict=True)}


def by_share(
    groups: Iterable[Group],
    shares: Mapping[str, float],
    select: Callable[[Sequence[Group], float], Mapping[str, BoolArray]],
) -> dict[str, BoolArray]:
    """Return what `select` chooses where groups are asked for shares of their own: groups of one share are given it together.

    shares: group name -> share.
    """
    alike: dict[float, list[Group]] = {}
    for group in groups:
        alike.setdefault(shares[group.name], []).append(group)
    found: dict[str, BoolArray] = {}
    for share, same in alike.items():
        found |= select(same, share)
    return found


def shares_at(groups: Iterable[Group], by_kind: Mapping[str, float], share: float) -> dict[str, float]:
    """Return the share of every group when the largest of them is `share`: all of them grow alike.

    by_kind: group name -> share at the end, where shares were given by kind; else every group is asked for `share`.
    """
    most = max(by_kind.values(), default=0.0) or 1.0
    return {
        group.name: share * by_kind[group.name] / most if group.name in by_kind else share for group in groups
    }


def lowest(group: Group, scores: FloatArray, count: int, round_to: int = 1) -> BoolArray:
    """Return which channels stay when the `count` lowest go, fewer where equal numbers must go from parts.

    `round_to`: what stays is a multiple of it.
    """
    if count <= 0:
        return np.ones(group.size, np.bool_)
    share = min((count + 0.5) / group.size, 1 - 1e-9)
    return select_channels([group], {group.name: scores}, share, round_to=round_to)[group.name]


_SAMPLE = 10_000
"""Values that `kth_smallest` looks at first; tensors up to twenty times as large are searched whole."""


def kth_smallest(values: Tensor, count: int) -> Tensor:
    """Return the `count`-th smallest (from 1) of `values`, flat, exactly.

    A sorted sample brackets it, after Floyd & Rivest 1975, so that only few values need selecting: four times
    as fast as `torch.kthvalue` alone on a few million weights. Where the bracket misses, all values are
    searched.
    """
    if values.numel() >= 20 * _SAMPLE:
        sample = values[:: values.numel() // _SAMPLE].sort().values
        place = count / values.numel() * sample.numel()
        margin = 4 * math.sqrt(sample.numel())
        low = sample[max(int(place - margin), 0)]
        high = sample[min(int(place + margin), sample.numel() - 1)]
        below = int((values < low).count_nonzero())
        inside = values[(values >= low) & (values <= high)]
        if below < count <= below + inside.numel():
            return inside.kthvalue(count - below).values
    return values.kthvalue(count).values


def smallest(values: Tensor, count: int) -> Tensor:
    """Return a bool mask of the `count` smallest of `values` (flat), ties by index."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = kth_smallest(values, count)
    gone = values < threshold
    ties = torch.nonzero(values == threshold).flatten()
    gone[ties[: count - int(gone.count_nonzero())]] = True
    return gone


def weight_scores(name: str, weight: Tensor, criterion: str = "magnitude", seed: int = 0) -> Tensor:
    """Return what ranks the weights of a tensor, flat in logical order, at least 0: ``|w|``, or what `criterion` says."""
    sizes = weight.detach().reshape(-1).abs()
    # Half types order exactly as their float32 values do, and every torch has kthvalue for float32.
    sizes = sizes.float() if sizes.dtype in (torch.float16, torch.bfloat16) else sizes
    if criterion == "lamp":
        return lamp_scores(sizes.double().square())
    if criterion == "random":
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        return torch.rand(sizes.numel(), generator=generator).to(sizes.device)
    return sizes


def _protected(sizes: Tensor, keep_at_least: float) -> Tensor:
    """Return `sizes`, infinite where they are among the largest that must stay."""
    free = smallest(sizes, sizes.numel() - least_kept(keep_at_least, sizes.numel()))
    return sizes.masked_fill(~free, torch.inf)


def select_weights(
    weights: Mapping[str, Tensor],
    target_sparsity: float,
    scope: str = "group",
    previous: Mapping[str, Tensor] | None = None,
    *,
    criterion: str = "magnitude",
    keep_at_least: float = 0.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return masks that drop the ``floor(s * numel)`` least magnitudes of each tensor, ties by index.

    With ``scope="global"`` the count is taken over all tensors together (compared on the CPU in float64 when
    they differ in device or type), and at least the share `keep_at_least` of every tensor stays. `criterion`:
    magnitude, lamp (Lee et al. 2021: magnitudes that compare across tensors) or random. `previous`: masks of an
    earlier step; what is masked there goes first.
    Returns name -> bool tensor of the weight's shape and device, True = keep.
    """
    _check(target_sparsity, scope)
    sizes = {name: weight_scores(name, w, criterion, seed) for name, w in weights.items()}
    if scope == "global" and keep_at_least > 0:
        sizes = {name: _protected(size, keep_at_least) for name, size in sizes.items()}
    if previous is not None:
        sizes = {name: s.masked_fill(~previous[name].reshape(-1), -1.0) for name, s in sizes.items()}
    if scope == "global" and sizes:
        if len({(size.device, size.dtype) for size in sizes.values()}) > 1:
            sizes = {name: size.to("cpu", torch.float64) for name, size in sizes.items()}
        joined = torch.cat(list(sizes.values()))
        gone = smallest(joined, prune_count(target_sparsity, joined.numel()))
        parts = torch.split(gone, [size.numel() for size in sizes.values()])
        dropped = dict(zip(sizes, parts, strict=True))
    else:
        dropped = {n: smallest(size, prune_count(target_sparsity, size.numel())) for n, size in sizes.items()}
    return {name: (~dropped[name]).reshape(w.shape).to(w.device) for name, w in weights.items()}
