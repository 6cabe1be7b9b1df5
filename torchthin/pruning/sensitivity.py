"""`sensitivity`: which groups of a model can lose channels cheaply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from torchthin.config import PruneConfig, Ratio
from torchthin.evaluation.evaluator import Metric
from torchthin.evaluation.results import Progress
from torchthin.evaluation.sensitivity_scan import RATIOS, scanned
from torchthin.graph.inputs import as_inputs, check_model, on_device_of
from torchthin.io.calibration import calibration
from torchthin.pruning.one_shot import batches_of, check_criterion, traced_targets
from torchthin.pruning.target_plans import Run
from torchthin.selection.selectors import RatioRule
from torchthin.selection.sensitivity_table import Sensitivity


def sensitivity(
    model: nn.Module,
    example_inputs: Any,
    *,
    criterion: str | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    data: Any = None,
    metric: Metric | None = None,
    ratios: Iterable[float] = RATIOS,
    seed: int = 0,
    cache: str | Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure what every group of channels costs at several ratios, each group alone; `model` is left as it is.

    A share of the group's channels (the least important ones) is masked on a copy, and the copy evaluated once: Li et
    al. 2017 (arXiv 1608.08710), section 3.2, for groups of coupled layers. `Sensitivity.to_dict` is what
    ``Budget(..., allocation=...)`` takes.

    Args:
        model: any model.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        data: what `torchthin.io.calibration.calibration` takes: the inputs on which the distance to the dense outputs is
            taken, and from which criteria learn. None: the example inputs.
        metric: a function of the model (in evaluation mode) that returns a number, higher is better; the loss is how much of
            it is lost. None: the distance to the dense outputs, in units of their variance (`torchthin.evaluation.distance`).
        ratios: shares of a group's channels, between 0 and 1; rounded down.
        criterion, include, exclude, seed: as in `prune`.
        cache: JSON-lines file to which each result is written at once; a later run of the same weights, data and metric
            continues from it.
        workers: processes that evaluate, each with one thread (on the CPU of systems that can fork).
        progress: called with the number of evaluations that are done and of all.

    Raises:
        InputError: nothing can be pruned, or model, data, metric or cache cannot be used.
    """
    config = PruneConfig(
        criterion=criterion,
        include=include,  # type: ignore[arg-type]
        exclude=exclude,  # type: ignore[arg-type]
        seed=seed,
    )
    check_model(model, "sensitivity")
    check_criterion(config, example_inputs, data)
    inputs = on_device_of(model, as_inputs(example_inputs))
    traced, targets = traced_targets(model, inputs, config)
    given = None if data is None else calibration(data, like=inputs, model=model)
    run = Run(traced, targets, config, batches_of(model, given))
    found = scanned(
        run.selector(RatioRule(Ratio())), traced, run.batches or (inputs,),
        metric=metric, ratios=ratios, cache=cache, workers=workers, progress=progress,
        constraints=run.constraints,
    )  # fmt: skip
    return found if given is None else replace(found, notes=given.notes)
