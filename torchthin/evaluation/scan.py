"""Every group at every ratio: what is known is taken from the cache, the rest is evaluated, in several processes if asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from torchthin.dependency.groups import Group
from torchthin.errors import ConfigError, InputError
from torchthin.evaluation.cache import Cache, Key, fingerprint
from torchthin.evaluation.metric import Judge, Metric, metric_name
from torchthin.evaluation.workers import check_workers, evaluated
from torchthin.graph.inputs import Inputs
from torchthin.graph.trace import Traced
from torchthin.selection.channels import lowest
from torchthin.selection.selectors import BoolArray, ByImportance, masks_of
from torchthin.selection.sensitivity_table import GroupCurve, Sensitivity
from torchthin.thinning.plan import find_plan

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Progress = Callable[[int, int], None]
"""(evaluations done, evaluations in all)."""


@dataclass(frozen=True)
class Scan:
    """How groups are scanned."""

    batches: tuple[Inputs, ...]
    """For the distance to the dense outputs."""
    metric: Metric | None = None
    ratios: tuple[float, ...] = RATIOS
    cache: str | Path | None = None
    """JSON lines file with what was evaluated so far."""
    workers: int = 1

    def __post_init__(self) -> None:
        ratios: Any = self.ratios
        good = [isinstance(r, Real) and 0 < float(r) < 1 for r in ratios]
        if not good or not all(good):
            raise ConfigError(f"The ratios of sensitivity must be numbers between 0 and 1. Got {ratios!r}.")
        object.__setattr__(self, "ratios", tuple(sorted({float(ratio) for ratio in ratios})))
        check_workers(self.workers, "sensitivity")

    @property
    def name(self) -> str:
        """Name of what is measured."""
        if self.metric is None:
            return "distance"
        return metric_name(self.metric)


@dataclass(frozen=True)
class _Work:
    """What an evaluation needs, in whichever process it runs."""

    judge: Judge
    decide: ByImportance
    groups: dict[str, Group]

    def loss(self, key: Key) -> float:
        """Return what the model loses with so many channels of a group masked."""
        group, gone = self.groups[key[0]], key[1]
        assert self.decide.ranking is not None
        keep = lowest(group, self.decide.ranking.scores[group.name], gone)
        return self.judge.loss(self._masks(group, keep))

    def _masks(self, group: Group, keep: BoolArray) -> dict[str, Tensor]:
        decide = self.decide
        assert decide.chosen is not None
        return masks_of([group], {group.name: keep}, decide.model, decide.chosen.axes, (), decide.derived)


def scanned(
    decide: ByImportance, traced: Traced, scan: Scan, progress: Progress | None = None
) -> Sensitivity:
    """Return what every group that `decide` decides about costs at every ratio.

    decide: the groups, and the scores that say which of their channels go first. traced: its model.

    Raises:
        InputError: nothing can be pruned, or model, data or metric cannot be used.
        ConfigError: the cache cannot be used.
    """
    find_plan(traced, decide)  # what turns out not to go is no group any more
    assert decide.chosen is not None
    groups = {group.name: group for group in decide.chosen.groups}
    if not groups:
        raise InputError(
            "No group of the model can be pruned. See with torchthin inspect what is in the way."
        )
    how = {"metric": scan.name, "criterion": decide.criterion, "seed": decide.seed}
    cache = Cache(scan.cache, "" if scan.cache is None else fingerprint(decide.model, scan.batches, how))
    work = _Work(Judge(decide.model, scan.batches, scan.metric), decide, groups)
    cache.begin(work.judge.dense)
    wanted = [(group.name, gone) for group in groups.values() for gone in _counts(group, scan.ratios, decide)]
    missing = [key for key in wanted if key not in cache.known]
    done = len(wanted) - len(missing)
    if progress is not None:
        progress(done, len(wanted))
    for key, loss in evaluated(work.loss, missing, scan.workers, decide.model):
        cache.add(key, _finite(key, loss))
        done += 1
        if progress is not None:
            progress(done, len(wanted))
    curves = tuple(_curve(group, wanted, cache) for group in groups.values())
    return Sensitivity(curves, scan.ratios, scan.name, work.judge.dense, decide.criterion)


def _counts(group: Group, ratios: Sequence[float], decide: ByImportance) -> list[int]:
    """Return the numbers of channels to mask, without those that the group's balances do not allow."""
    assert decide.ranking is not None
    scores = decide.ranking.scores[group.name]
    asked = sorted({math.floor(ratio * group.size) for ratio in ratios} - {0})
    return [gone for gone in asked if int((~lowest(group, scores, gone)).sum()) == gone]


def _curve(group: Group, wanted: Sequence[Key], cache: Cache) -> GroupCurve:
    gone = tuple(count for name, count in wanted if name == group.name)
    return GroupCurve(group.name, group.size, gone, tuple(cache.known[group.name, n] for n in gone))


def _finite(key: Key, loss: float) -> float:
    if not np.isfinite(loss):
        raise InputError(
            f"The model gives outputs that are not finite with {key[1]} channels of {key[0]} masked. "
            "Look for weights or data that overflow."
        )
    return loss
