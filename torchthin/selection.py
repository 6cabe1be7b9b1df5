"""Selection: scores + target -> what stays. Exact counts, ties by index.

The count is ``floor(s * n)`` of the double-precision product, as Distiller computes it: 0.29 * 100 is
28.999999999999996 in doubles, so 28 channels go. Among equal scores the lower index goes first. For fixed
scores the selection at a higher sparsity holds the one at a lower sparsity, so a gradual schedule without
training in between ends where one shot ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.errors import ConfigError
from torchthin.groups import Group, IntArray

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def prune_count(sparsity: float, size: int) -> int:
    """Return ``floor(sparsity * size)``, but at least one of `size` stays.

    >>> prune_count(0.5, 19), prune_count(0.29, 100), prune_count(0.9, 1)
    (9, 28, 0)
    """
    return max(min(math.floor(sparsity * size), size - 1), 0)


def _check(target_sparsity: float, scope: str) -> None:
    if not 0 <= target_sparsity < 1:
        raise ConfigError(f"The target_sparsity of select must be in [0, 1). Got {target_sparsity!r}.")
    if scope not in ("group", "global"):
        raise ConfigError(f"The scope of select must be 'group' or 'global'. Got {scope!r}.")


def _rounds(scores: FloatArray, blocks: IntArray | None) -> IntArray:
    """Return channel indices, shape (rounds, blocks): row j holds the j-th lowest channel of every block.

    A round is what can go at once, one channel of every block. Without blocks a round is one channel. Blocks
    of different sizes share as many rounds as the smallest one has.
    """
    if blocks is None:
        return np.argsort(scores, kind="stable").astype(np.int64)[:, None]
    order = np.lexsort((np.arange(scores.size), scores, blocks))
    _, starts, sizes = np.unique(blocks[order], return_index=True, return_counts=True)
    return np.asarray(order[starts[None, :] + np.arange(sizes.min())[:, None]], dtype=np.int64)


def _relative(scores: FloatArray) -> FloatArray:
    """Return scores divided by their mean: layers of different fan-in become comparable across groups."""
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


def _global_rounds(
    groups: list[Group], scores: Mapping[str, FloatArray], rounds: list[IntArray], sparsity: float
) -> list[int]:
    """Return how many rounds go from each group so that ``floor(s * all)`` channels go, or just fewer.

    The last round of every group stays. Rounds are taken strictly in order of score: skipping one that is too
    large would let a higher sparsity select something else than a lower one did.
    """
    count = prune_count(sparsity, sum(group.size for group in groups))
    if not count:
        return [0] * len(groups)
    values = [
        scores[group.name][table[:-1]].mean(axis=1) for group, table in zip(groups, rounds, strict=True)
    ]
    owners = np.repeat(np.arange(len(groups)), [value.size for value in values])
    costs = np.array([table.shape[1] for table in rounds], dtype=np.int64)
    order = np.argsort(np.concatenate(values), kind="stable")
    taken = order[np.cumsum(costs[owners[order]]) <= count]
    return [int(count) for count in np.bincount(owners[taken], minlength=len(groups))]


def select_channels(
    groups: Iterable[Group],
    scores: Mapping[str, FloatArray],
    target_sparsity: float,
    scope: str = "group",
    previous: Mapping[str, BoolArray] | None = None,
) -> dict[str, BoolArray]:
    """Return which channels of every scored group stay.

    In a group of n channels ``floor(s * n)`` go, rounded down to equal numbers from each of the group's
    blocks; at least one channel of every group (of every block) stays. With ``scope="global"`` the count is
    taken of the channels of all groups together, and scores are compared relative to their group's mean.

    groups: channels to decide about; a group without scores is left out. scores: group name -> (channels,).
    previous: keeps of an earlier step; a channel masked there goes first, so that masks only grow.
    Returns group name -> bool (channels,), True = keep. Raises `ConfigError` for a target outside [0, 1).
    """
    _check(target_sparsity, scope)
    chosen = [group for group in groups if group.name in scores]
    ranked = {}
    for group in chosen:
        score = np.asarray(scores[group.name], dtype=np.float64)
        score = _relative(score) if scope == "global" else score
        if previous is not None and group.name in previous:
            score = np.where(previous[group.name], score, -np.inf)
        ranked[group.name] = score
    rounds = [_rounds(ranked[group.name], group.blocks) for group in chosen]
    if scope == "global":
        counts = _global_rounds(chosen, ranked, rounds, target_sparsity) if chosen else []
    else:
        counts = [
            min(prune_count(target_sparsity, group.size) // table.shape[1], table.shape[0] - 1)
            for group, table in zip(chosen, rounds, strict=True)
        ]
    keeps = {}
    for group, table, count in zip(chosen, rounds, counts, strict=True):
        keeps[group.name] = np.ones(group.size, dtype=np.bool_)
        keeps[group.name][table[:count].reshape(-1)] = False
    return keeps


def _smallest(values: Tensor, count: int) -> Tensor:
    """Return a bool mask of the `count` smallest of `values` (flat), ties by index."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = values.kthvalue(count).values
    gone = values < threshold
    ties = torch.nonzero(values == threshold).flatten()
    gone[ties[: count - int(gone.sum())]] = True
    return gone


def _magnitudes(weight: Tensor, previous: Tensor | None) -> Tensor:
    """Return ``|w|``, flat in logical order, with -1 where an earlier mask is off already."""
    sizes = weight.detach().reshape(-1).abs()
    # Half types order exactly as their float32 values do, and every torch has kthvalue for float32.
    sizes = sizes.float() if sizes.dtype in (torch.float16, torch.bfloat16) else sizes
    return sizes if previous is None else sizes.masked_fill(~previous.reshape(-1), -1.0)


def select_weights(
    weights: Mapping[str, Tensor],
    target_sparsity: float,
    scope: str = "group",
    previous: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return masks that drop the ``floor(s * numel)`` least magnitudes of each tensor, ties by index.

    With ``scope="global"`` the count is taken over all tensors together (compared on the CPU in float64 when
    they differ in device or type). `previous`: masks of an earlier step; what is masked there goes first.
    Returns name -> bool tensor of the weight's shape and device, True = keep.
    """
    _check(target_sparsity, scope)
    sizes = {
        name: _magnitudes(w, None if previous is None else previous[name]) for name, w in weights.items()
    }
    if scope == "global" and sizes:
        if len({(size.device, size.dtype) for size in sizes.values()}) > 1:
            sizes = {name: size.to("cpu", torch.float64) for name, size in sizes.items()}
        joined = torch.cat(list(sizes.values()))
        gone = _smallest(joined, prune_count(target_sparsity, joined.numel()))
        parts = torch.split(gone, [size.numel() for size in sizes.values()])
        dropped = dict(zip(sizes, parts, strict=True))
    else:
        dropped = {
            n: _smallest(size, prune_count(target_sparsity, size.numel())) for n, size in sizes.items()
        }
    return {name: (~dropped[name]).reshape(w.shape).to(w.device) for name, w in weights.items()}
