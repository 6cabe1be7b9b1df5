"""`compare`: every candidate of a grid on one model, in one process, in several, or in many that share a storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from torchthin.config import PruneConfig
from torchthin.errors import ConfigError
from torchthin.evaluation.cache import fingerprint
from torchthin.evaluation.metric import Metric, metric_name
from torchthin.evaluation.scan import Progress
from torchthin.evaluation.workers import check_workers, evaluated
from torchthin.graph.inputs import Inputs, as_inputs, on_device_of
from torchthin.graph.model import check_model
from torchthin.io.calibration import calibration
from torchthin.max7800x.cost.table import chip_named
from torchthin.pruning.comparison.candidate import Recovery, Work, split
from torchthin.pruning.comparison.comparison import DISTANCE, Comparison
from torchthin.pruning.comparison.evaluator import Judge
from torchthin.pruning.comparison.grid import key_of
from torchthin.pruning.comparison.row import Row
from torchthin.pruning.comparison.rows import Rows
from torchthin.pruning.evidence import check_evidence
from torchthin.recovery.distillation import Distillation


def compare(
    model: nn.Module,
    example_inputs: Any,
    candidates: Iterable[PruneConfig],
    *,
    data: Any = None,
    metric: Metric | None = None,
    recover: bool = True,
    recover_epochs: int = 0,
    recover_outputs: str = "values",
    chip: str | None = None,
    latency: int = 0,
    rows: str | Path | None = None,
    workers: int = 1,
    storage: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Prune, thin and measure `model` in every way that is asked for; it is left as it is.

    A candidate that cannot be made (`ProofError`, `TargetMissedError`) is a row with the reason.

    Args:
        model: any model.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        candidates: configurations with ``thin=True``, such as `torchthin.pruning.comparison.grid.grid` makes.
        data: what `torchthin.io.calibration.calibration` takes, for criteria, for recovery, and for the distance to the dense
            outputs: that is taken on the last quarter of it, which nothing learns from. None: the distance is taken on the
            example inputs, and nothing is recovered.
        metric: a function of the model (in evaluation mode) that returns a number, higher is better. None: the distance.
        recover: whether thinned models are recovered from `data`.
        recover_epochs, recover_outputs: as the ``epochs`` and ``outputs`` of `torchthin.recover`.
        chip: MAX78000 or MAX78002: its cycles are counted as well.
        latency: measured forward passes of either model, in turns; 0: none.
        rows: JSON lines file to which each row is written at once, and from which a later run of the same weights, data and
            options goes on; its grid may be another.
        workers: processes that evaluate, each with one thread (on the CPU of systems that can fork).
        storage: database of Optuna, such as ``sqlite:///grid.db`` (extra ``search``), through which runs of the same command
            share the grid: each candidate is evaluated by one of them.
        progress: called with the candidates that are done and those in all.

    Raises:
        InputError: model, inputs, data or metric cannot be used (`ConfigError`: an option is wrong, or the rows are of
            another model).
    """
    check_model(model, "compare")
    asked = tuple(dict.fromkeys(candidates))
    _check(asked, example_inputs, data, latency, workers, rows, storage)
    Distillation(recover_epochs, outputs=recover_outputs)  # raises what is wrong with them
    if recover_epochs and (data is None or not recover):
        raise ConfigError("The recover_epochs of compare need data, and recover=True.")
    chip = None if chip is None else chip_named(chip).name
    inputs = on_device_of(model, as_inputs(example_inputs))
    found = None if data is None else calibration(data, like=inputs)
    notes: list[str] = [] if found is None else list(found.notes)
    batches: tuple[Inputs, ...] = (inputs,)
    learned = found
    if found is not None:
        learned, batches, held = split(model, found, held_out=metric is None)
        if metric is None:
            notes.append(
                f"The distance is taken on {held} of {found.samples} inputs, from which nothing learns."
                if held
                else f"The distance is taken on the {found.samples} inputs that criteria and recovery learn from as well."
            )
    how = {
        "metric": DISTANCE if metric is None else metric_name(metric),
        "recovery": [recover_epochs, recover_outputs] if found is not None and recover else None,
        "chip": chip,
        "latency": latency,
    }
    mark = fingerprint(model, (inputs, *(() if found is None else found.batches)), how)
    kept = Rows(rows, mark)
    recovery = Recovery(recover_epochs, recover_outputs) if recover else None
    judge = Judge(model, batches, metric)
    work = Work(model, inputs, learned, judge, recovery, chip, latency, asked[0].seed)
    kept.begin(kept.dense or work.dense())
    assert kept.dense is not None
    wanted = {key_of(config): config for config in asked}
    if storage is not None:
        from torchthin.pruning.comparison.storage import shared

        for key, facts in shared(storage, mark, wanted, work.row, progress).items():
            kept.add(key, Row.from_dict(facts))
    else:
        _fill(kept, work, wanted, workers, progress)
    missing = [key for key in wanted if key not in kept.known]
    if missing:
        notes.append(
            f"{len(missing)} of {len(wanted)} candidates are still with other runs. The same command shows them later."
        )
    done = tuple(kept.known[key] for key in wanted if key in kept.known)
    return Comparison(kept.dense, done, str(how["metric"]), tuple(notes))


def _fill(
    kept: Rows, work: Work, wanted: Mapping[str, PruneConfig], workers: int, progress: Progress | None
) -> None:
    missing = [config for key, config in wanted.items() if key not in kept.known]
    done = len(wanted) - len(missing)
    if progress is not None:
        progress(done, len(wanted))
    for config, row in evaluated(work.row, missing, workers, work.model):
        kept.add(key_of(config), row)
        done += 1
        if progress is not None:
            progress(done, len(wanted))


def _check(
    asked: Sequence[PruneConfig],
    example_inputs: Any,
    data: Any,
    latency: int,
    workers: Any,
    rows: str | Path | None,
    storage: str | None,
) -> None:
    if not asked:
        raise ConfigError(
            "The candidates of compare are empty. Give at least one; torchthin.pruning.comparison.grid makes them."
        )
    for config in asked:
        if not config.thin:
            raise ConfigError("The candidates of compare must be thinned. Give them thin=True.")
        if config.rule.structured:
            check_evidence(config, example_inputs, data, None)
    count: Any = latency
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ConfigError(
            f"The latency of compare must be a whole number of runs of at least 0. Got {latency!r}."
        )
    several = check_workers(workers, "compare") > 1
    if several and latency:
        raise ConfigError(
            "The latency of compare needs one worker: processes beside each other slow each other down."
        )
    if storage is not None and (several or rows is not None):
        raise ConfigError(
            "The storage of compare is shared by runs of the same command. Give neither workers nor rows with it."
        )
