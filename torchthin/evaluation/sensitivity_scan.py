"""What every group loses at every ratio: the losses that the cache does not hold are evaluated, in several processes if asked."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.dependency.groups import Group
from torchthin.errors import ConfigError, InputError
from torchthin.evaluation.evaluator import DISTANCE, Evaluator, Metric, metric_name
from torchthin.evaluation.results import Progress, ResultFormat, Results, fingerprint
from torchthin.evaluation.workers import check_workers
from torchthin.graph.clone import clone, duplicate, state_tensors
from torchthin.graph.inputs import Inputs
from torchthin.graph.parametrized import DerivedWeight
from torchthin.graph.trace import Traced
from torchthin.selection.channels import lowest
from torchthin.selection.masks import apply_masks_
from torchthin.selection.selectors import FloatArray, ImportanceSelector, masks_of
from torchthin.selection.sensitivity_table import GroupCurve, Sensitivity
from torchthin.thinning.plan import find_plan

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Key = tuple[str, int]
"""Group and number of channels masked."""


@dataclass(frozen=True)
class Scan:
    """How groups are scanned."""

    batches: tuple[Inputs, ...]
    """For the distance to the dense outputs."""
    metric: Metric | None = None
    ratios: tuple[float, ...] = RATIOS
    cache: str | Path | None = None
    """JSON-lines file of the losses that are known."""
    workers: int = 1

    def __post_init__(self) -> None:
        ratios: Any = self.ratios
        good = [isinstance(r, Real) and 0 < float(r) < 1 for r in ratios]
        if not good or not all(good):
            raise ConfigError(f"The ratios of sensitivity must be numbers between 0 and 1. Got {ratios!r}.")
        object.__setattr__(self, "ratios", tuple(sorted({float(ratio) for ratio in ratios})))
        check_workers(self.workers, "sensitivity")


@dataclass(frozen=True)
class _Work:
    """What an evaluation needs, in whichever process it runs."""

    evaluator: Evaluator
    copy: nn.Module
    """Of the dense model; it is masked and restored."""
    derived: Mapping[str, DerivedWeight]
    groups: Mapping[str, Group]
    scores: Mapping[str, FloatArray]
    axes: Mapping[str, int]

    def loss(self, key: Key) -> float:
        """Return what the model loses with so many channels of a group masked."""
        group, removed = self.groups[key[0]], key[1]
        keeps = {group.name: lowest(group, self.scores[group.name], removed)}
        masks = masks_of([group], keeps, self.copy, self.axes, (), self.derived)
        with _masked(self.copy, masks):
            loss = self.evaluator.loss(self.copy)
        if not math.isfinite(loss):
            raise InputError(
                f"The model gives outputs that are not finite with {removed} channels of {group.name} masked. "
                "Look for weights or data that overflow."
            )
        return loss


@contextlib.contextmanager
def _masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Mask weights in place, and put the old values back afterwards."""
    tensors = dict(state_tensors(model))
    before = {name: tensors[name].detach().clone() for name in masks}
    apply_masks_(model, masks)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                tensors[name].copy_(value)


def scanned(
    select: ImportanceSelector, traced: Traced, scan: Scan, progress: Progress | None = None
) -> Sensitivity:
    """Return what every group that `select` decides about costs at every ratio.

    select: finds the groups, and the scores that say which of their channels are removed first. traced: its model.

    Raises:
        InputError: nothing can be pruned, or model, data or metric cannot be used.
        ConfigError: the cache cannot be used.
    """
    selection = find_plan(traced, select).proposal.selection  # groups that cannot be thinned are frozen by it
    groups = {group.name: group for group in selection.groups}
    if not groups:
        raise InputError("No group of the model can be pruned. See the reasons with torchthin inspect.")
    metric = metric_name(scan.metric)
    options = {
        "metric": "distance in units of the variance" if metric == DISTANCE else metric,
        "criterion": select.criterion,
        "seed": select.seed,
    }
    assert selection.ranking is not None
    model, scores = traced.model, selection.ranking.scores
    mark = "" if scan.cache is None else fingerprint(model, scan.batches, options)
    losses = Results(scan.cache, mark, _FORMAT)
    evaluator = Evaluator(model, scan.batches, scan.metric)
    losses.begin(evaluator.dense)
    work = _Work(evaluator, clone(model, duplicate), traced.derived, groups, scores, selection.axes)
    wanted = [(name, n) for name, group in groups.items() for n in _counts(group, scan.ratios, scores[name])]
    losses.complete(wanted, work.loss, scan.workers, model, progress)
    curves = tuple(_curve(group, wanted, losses.known) for group in groups.values())
    return Sensitivity(curves, scan.ratios, metric, evaluator.dense, select.criterion)


def _counts(group: Group, ratios: Sequence[float], scores: FloatArray) -> list[int]:
    """Return the numbers of channels to mask, without those that the group's balances do not allow."""
    asked = sorted({math.floor(ratio * group.size) for ratio in ratios} - {0})
    return [count for count in asked if int((~lowest(group, scores, count)).sum()) == count]


def _curve(group: Group, wanted: Sequence[Key], losses: Mapping[Key, float]) -> GroupCurve:
    counts = tuple(count for name, count in wanted if name == group.name)
    return GroupCurve(group.name, group.size, counts, tuple(losses[group.name, count] for count in counts))


_FORMAT = ResultFormat[Key, float](
    encode=lambda key, loss: {"group": key[0], "gone": key[1], "loss": loss},
    decode=lambda facts: ((str(facts["group"]), int(facts["gone"])), float(facts["loss"])),
    encode_dense=float,
    decode_dense=float,
    role="cache",
    command="sensitivity",
)
