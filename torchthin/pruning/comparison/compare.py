"""`compare`: every candidate of a grid on one model, in one process, in several, or in many that share a storage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.config import Distiller, PruneConfig, Recovery
from torchthin.errors import ConfigError
from torchthin.evaluation.evaluator import Evaluator, Metric, metric_name
from torchthin.evaluation.results import Progress, Results, fingerprint
from torchthin.evaluation.workers import check_workers
from torchthin.graph.inputs import Inputs, as_inputs, check_model, on_device_of
from torchthin.io.calibration import Calibration, calibration, picked
from torchthin.io.data_sources import BATCH
from torchthin.pruning.comparison.candidate import Measurement, OnChip, key_of, recovered_result
from torchthin.pruning.comparison.comparison import Comparison, Row
from torchthin.pruning.one_shot import check_criterion, check_data
from torchthin.pruning.per_weight import by_layer_inputs

HELD_OUT = 4
"""One of so many inputs of the data is held out: the distance is taken on it, and nothing learns from it."""
FEWEST = 4
"""With fewer inputs none is held out."""
_RECOVERY = Recovery()


def compare(
    model: nn.Module,
    example_inputs: Any,
    candidates: Iterable[PruneConfig],
    *,
    data: Any = None,
    metric: Metric | None = None,
    recovery: Recovery | None = _RECOVERY,
    cost: OnChip | None = None,
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
        candidates: configurations with ``thin=True``, such as `torchthin.pruning.comparison.candidate.grid` makes.
        data: what `torchthin.io.calibration.calibration` takes, for criteria, for recovery, and for the distance to the dense
            outputs: that is taken on the last quarter of it, which nothing learns from. None: the distance is taken on the
            example inputs, and nothing is recovered.
        metric: a function of the model (in evaluation mode) that returns a number, higher is better. None: the distance.
        recovery: how thinned models are recovered from `data`; None: they are not.
        cost: such as `torchthin.Chip`: the cycles of a run on it are counted as well.
        latency: measured forward passes of either model, in turns; 0: none.
        rows: JSON-lines file to which each row is written at once; a later run of the same weights, data and options continues
            from it; its grid may be another.
        workers: processes that evaluate, each with one thread (on the CPU of systems that can fork).
        storage: database of Optuna, such as ``sqlite:///grid.db`` (extra ``search``), through which runs of the same command
            share the grid: each candidate is evaluated by one of them.
        progress: called with the number of candidates that are done and of all.

    Raises:
        InputError: model, inputs, data or metric cannot be used (`ConfigError`: an option is wrong, or the rows are of
            another model).
    """
    check_model(model, "compare")
    asked = tuple(dict.fromkeys(candidates))
    _check(asked, example_inputs, data, recovery)
    _check_running(workers, latency, rows, storage)
    parts = _Parts.of(model, example_inputs, data, held_out=metric is None)
    chip = None if cost is None else cost.name
    mark = parts.fingerprint(model, metric=metric_name(metric), recovery=recovery, chip=chip, latency=latency)
    results = Results[str, Row](
        rows, mark, encode=Row.to_dict, decode=Row.from_dict, role="rows file", command="compare"
    )
    evaluator = Evaluator(model, parts.evaluated, metric)
    measurement = Measurement(model, parts.example, evaluator, cost, latency)
    make = partial(recovered_result, model, parts.example, parts.learned, recovery)
    row_of = partial(measurement.row, make)
    dense = results.dense or measurement.dense()
    results.begin(dense)
    wanted = {key_of(config): config for config in asked}
    if storage is None:
        results.complete(list(wanted), lambda key: row_of(wanted[key]), workers, model, progress)
    else:
        from torchthin.pruning.comparison.storage import shared

        results.known.update(shared(storage, mark, wanted, row_of, progress))
    done = tuple(results.known[key] for key in wanted if key in results.known)
    missing = len(asked) - len(done)
    note = (
        f"{missing} of {len(asked)} candidates are still with other runs. The same command shows them later."
    )
    return Comparison(dense, done, metric_name(metric), (*parts.notes, *([note] if missing else ())))


@dataclass(frozen=True)
class _Parts:
    """The example inputs and the data, what of it criteria and recovery learn from, and what models are evaluated on."""

    example: Inputs
    given: tuple[Inputs, ...] = ()
    learned: Calibration | None = None
    evaluated: tuple[Inputs, ...] = ()
    notes: tuple[str, ...] = ()

    def fingerprint(self, model: nn.Module, *, recovery: Recovery | None, **options: Any) -> str:
        """Return the digest of model, data and options."""
        learned = None if self.learned is None or recovery is None else asdict(recovery)
        return fingerprint(
            model, (self.example, *self.given), {**options, "recovery": learned, "macs": "per sample"}
        )

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Any, data: Any, held_out: bool) -> _Parts:
        """Hold out the last quarter; nothing with fewer than `FEWEST` inputs, or where `held_out` is False."""
        example = on_device_of(model, as_inputs(example_inputs))
        if data is None:
            return cls(example, evaluated=(example,))
        found = calibration(data, like=example, model=model)
        given = tuple(on_device_of(model, batch) for batch in found.batches)
        count = found.samples // HELD_OUT if held_out and found.samples >= FEWEST else 0
        if not count:
            note = f"The distance is taken on the {found.samples} inputs that criteria and recovery learn from as well."
            return cls(example, given, found, given, (*found.notes, *([note] if held_out else ())))
        joined, first = found.joined(), found.samples - count
        learned, evaluated = (
            tuple(on_device_of(model, picked(joined, part)) for part in numbers.split(BATCH))
            for numbers in torch.arange(found.samples).split([first, count])
        )
        note = f"The distance is taken on {count} of {found.samples} inputs, from which nothing learns."
        return cls(example, given, Calibration(learned, first, found.notes), evaluated, (*found.notes, note))


def _check(asked: Sequence[PruneConfig], example_inputs: Any, data: Any, recovery: Recovery | None) -> None:
    if not asked:
        raise ConfigError(
            "The candidates of compare are empty. Give at least one; torchthin.pruning.comparison.candidate.grid makes them."
        )
    for config in asked:
        if not config.thin:
            raise ConfigError("The candidates of compare must be thinned. Give them thin=True.")
        if config.structured and not isinstance(config.target, Distiller):
            check_criterion(config, example_inputs, data)
        if by_layer_inputs(config):
            check_data(config.ranked_by, example_inputs, data)
    if data is None and recovery is not None and recovery.epochs:
        raise ConfigError("The recovery of compare must have no epochs without data. Give data.")


def _check_running(workers: Any, latency: Any, rows: str | Path | None, storage: str | None) -> None:
    if isinstance(latency, bool) or not isinstance(latency, int) or latency < 0:
        raise ConfigError(
            f"The latency of compare must be a whole number of runs of at least 0. Got {latency!r}."
        )
    parallel = check_workers(workers, "compare") > 1
    if parallel and latency:
        raise ConfigError(
            "The latency of compare needs one worker: processes beside each other slow each other down."
        )
    if storage is not None and (parallel or rows is not None):
        raise ConfigError(
            "The storage of compare is shared by runs of the same command. Give neither workers nor rows with it."
        )
