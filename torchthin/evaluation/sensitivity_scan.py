"""What every group loses at every ratio: the losses that the cache does not hold are evaluated, in several processes if asked."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.dependency.groups import Group
from torchthin.errors import ConfigError, InputError
from torchthin.evaluation.evaluator import Evaluator, Metric, metric_name
from torchthin.evaluation.results import Progress, Results, fingerprint
from torchthin.evaluation.workers import check_workers
from torchthin.graph.clone import clone, duplicate, state_tensors
from torchthin.graph.inputs import Inputs
from torchthin.graph.parametrized import DerivedWeight
from torchthin.graph.trace import Traced
from torchthin.selection.channels import lowest
from torchthin.selection.masks import apply_masks_
from torchthin.selection.selectors import FloatArray, ImportanceSelector, masks_of
from torchthin.selection.sensitivity_table import GroupCurve, Sensitivity
from torchthin.thinning.search.constraints import Constraints
from torchthin.thinning.search.trial_loop import find_plan

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Key = tuple[str, int]
"""Group and number of channels masked."""


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
    select: ImportanceSelector,
    traced: Traced,
    batches: Sequence[Inputs],
    *,
    metric: Metric | None = None,
    ratios: Iterable[float] = RATIOS,
    cache: str | Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    constraints: Constraints | None = None,
) -> Sensitivity:
    """Return what every group that `select` decides about loses at every ratio.

    select: finds the groups, and the scores that say which of their channels are removed first. traced: its model. batches:
    for the distance to the dense outputs. constraints: what the groups keep to. For the others see `torchthin.sensitivity`.

    Raises:
        InputError: nothing can be pruned, or model, data or metric cannot be used.
        ConfigError: the cache or another option cannot be used.
    """
    shares = _checked(ratios)
    check_workers(workers, "sensitivity")
    plan = find_plan(
        traced, select, constraints=constraints
    )  # groups that cannot be thinned are frozen by it
    selection = plan.proposal.selection
    groups = {group.name: group for group in selection.groups}
    if not groups:
        raise InputError("No group of the model can be pruned. See the reasons with torchthin inspect.")
    assert selection.ranking is not None
    model, scores = traced.model, selection.ranking.scores
    options = {
        "metric": "distance in units of the variance" if metric is None else metric_name(metric),
        "criterion": select.criterion,
        "seed": select.seed,
    }
    mark = "" if cache is None else fingerprint(model, batches, options)
    losses = Results[Key, float](cache, mark, encode=float, decode=float, role="cache", command="sensitivity")
    evaluator = Evaluator(model, batches, metric)
    losses.begin(evaluator.dense)
    work = _Work(evaluator, clone(model, duplicate), traced.derived, groups, scores, selection.axes)
    counts = {name: _counts(group, shares, scores[name]) for name, group in groups.items()}
    losses.complete([(name, n) for name in groups for n in counts[name]], work.loss, workers, model, progress)
    curves = tuple(
        GroupCurve(name, group.size, counts[name], tuple(losses.known[name, n] for n in counts[name]))
        for name, group in groups.items()
    )
    return Sensitivity(curves, shares, metric_name(metric), evaluator.dense, select.criterion)


def _checked(ratios: Iterable[Any]) -> tuple[float, ...]:
    ratios = tuple(ratios)
    if not ratios or not all(isinstance(r, Real) and 0 < float(r) < 1 for r in ratios):
        raise ConfigError(f"The ratios of sensitivity must be numbers between 0 and 1. Got {ratios!r}.")
    return tuple(sorted({float(ratio) for ratio in ratios}))


def _counts(group: Group, ratios: Sequence[float], scores: FloatArray) -> tuple[int, ...]:
    """Return the numbers of channels to mask, without those that the group's balances do not allow."""
    asked = sorted({math.floor(ratio * group.size) for ratio in ratios} - {0})
    return tuple(count for count in asked if int((~lowest(group, scores, count)).sum()) == count)
