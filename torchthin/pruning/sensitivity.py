"""`sensitivity`: which groups of a model can lose channels cheaply."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from torchthin.config import PruneConfig
from torchthin.evaluation.evaluator import Metric
from torchthin.evaluation.results import Progress
from torchthin.evaluation.sensitivity_scan import RATIOS, Scan, scanned
from torchthin.graph.inputs import as_inputs, on_device_of
from torchthin.graph.model import check_model
from torchthin.graph.trace import trace
from torchthin.importance.values import check_values
from torchthin.pruning.evidence import batches_of, by_importance, check_evidence
from torchthin.selection.sensitivity_table import Sensitivity
from torchthin.selection.targets import find_targets


def sensitivity(
    model: nn.Module,
    example_inputs: Any,
    *,
    data: Any = None,
    metric: Metric | None = None,
    ratios: Iterable[float] = RATIOS,
    criterion: str | None = None,
    weights: Iterable[str] | None = None,
    keep: Iterable[str] | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure what every group of channels costs at several ratios, each group alone; `model` is left as it is.

    A share of the group's channels (the least important ones) is masked on a copy, and the copy evaluated once: Li et
    al. 2017 (arXiv 1608.08710), section 3.2, for groups of coupled layers. `Sensitivity.to_dict` is what
    ``prune(..., allocation=FILE)`` reads.

    Args:
        model: any model.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        data: what `torchthin.io.calibration.calibration` takes: the inputs on which the distance to the dense outputs is
            taken, and from which criteria learn. None: the example inputs.
        metric: a function of the model (in evaluation mode) that returns a number, higher is better; the loss is how much of
            it is lost. None: the distance to the dense outputs, in units of their variance (`torchthin.evaluation.distance`).
        ratios: shares of a group's channels, between 0 and 1; rounded down.
        criterion, weights, keep, seed: as in `prune`.
        cache: JSON lines file to which each result is written at once, and from which a later run of the same weights,
            data and metric goes on.
        workers: processes that evaluate, each with one thread (on the CPU of systems that can fork).
        progress: called with the evaluations that are done and those in all.

    Raises:
        InputError: nothing can be pruned, or model, data, metric or cache cannot be used.
    """
    config = PruneConfig(
        criterion=criterion,
        weights=weights,  # type: ignore[arg-type]
        keep=() if keep is None else keep,  # type: ignore[arg-type]
        seed=seed,
    )
    check_model(model, "sensitivity")
    check_evidence(config, example_inputs, data)
    plan = find_targets(model, structured=True, weights=config.weights, keep=config.keep, coupled=True)
    check_values(model, {target.name for target in plan.targets})
    inputs = on_device_of(model, as_inputs(example_inputs))
    traced = trace(model, inputs)
    batches = batches_of(model, inputs, data)
    how = Scan(batches or (inputs,), metric, tuple(ratios), cache, workers)
    return scanned(by_importance(model, plan, config, batches), traced, how, progress)
