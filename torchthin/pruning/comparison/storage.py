"""A grid shared by many runs through a database of Optuna, which gives each candidate to one of them. Extra ``search``."""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torchthin.config import PruneConfig
from torchthin.errors import ConfigError, InputError, one_line
from torchthin.evaluation.results import Progress
from torchthin.pruning.comparison.comparison import Row

HEARTBEAT = 60
"""Seconds between a run's signs of life; one silent for twice as long is dead, and its candidate is given out again."""
ATTEMPTS = 4
"""To open a database that others are making."""
_CANDIDATE, _ROW = "candidate", "row"


def shared(
    url: str,
    mark: str,
    wanted: Mapping[str, PruneConfig],
    evaluate: Callable[[PruneConfig], Row],
    progress: Progress | None = None,
    *,
    heartbeat: int = HEARTBEAT,
) -> dict[str, Row]:
    """Evaluate candidates until the queue is empty; return the rows of all runs so far.

    Optuna serves as a queue: one study for each mark, one trial for each candidate, whose row it carries.

    Raises:
        ConfigError: the database cannot be used.
        InputError: Optuna is not installed.
    """
    with _optuna() as optuna:
        study = _study(optuna, url, mark, heartbeat)
        taken: list[int] = []

        def objective(trial: Any) -> float:
            taken.append(trial.number)
            key = trial.user_attrs.get(_CANDIDATE)
            if key not in wanted or _taken_before(study, key, trial.number):
                raise optuna.TrialPruned
            row = evaluate(wanted[key])
            trial.set_user_attr(_ROW, json.dumps(row.to_dict()))
            return row.value if row.value is not None else 0.0

        while _waits(optuna, study, wanted):
            if progress is not None:
                progress(len(_rows(study, wanted)), len(wanted))
            try:
                study.optimize(objective, n_trials=1)
            except ValueError:
                if not taken or not _ended_by_another(study, taken[-1]):
                    raise
        rows = _rows(study, wanted)
    if progress is not None:
        progress(len(rows), len(wanted))
    return rows


@contextlib.contextmanager
def _optuna() -> Iterator[Any]:
    """Give Optuna, quiet."""
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "The storage of compare needs optuna. Install the extra: pip install 'torchthin[search]'."
        ) from error
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are marked as experimental
            yield optuna
    finally:
        optuna.logging.set_verbosity(level)


def _study(optuna: Any, url: str, mark: str, heartbeat: int) -> Any:
    """Return the study of all runs with this mark.

    Runs that begin together all make the tables of a new database, so that opening it may fail at first.
    """
    for attempt in range(ATTEMPTS):
        try:
            storage = optuna.storages.RDBStorage(
                url, heartbeat_interval=heartbeat, grace_period=2 * heartbeat
            )
            return optuna.create_study(
                storage=storage,
                study_name=f"torchthin compare {mark}",
                load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(0),
            )
        except Exception as error:  # sqlalchemy's are of many kinds
            failure = error
        time.sleep(0.2 * 2**attempt)
    raise ConfigError(
        f"The storage {url} cannot be used: {one_line(failure)}. Give a database such as sqlite:///grid.db."
    ) from failure


def _waits(optuna: Any, study: Any, wanted: Mapping[str, PruneConfig]) -> bool:
    """Enqueue the candidates that no living trial has, and return whether any is waiting."""
    optuna.storages.fail_stale_trials(study)
    states = optuna.trial.TrialState
    trials = study.get_trials(deepcopy=False)
    living = {t.user_attrs.get(_CANDIDATE) for t in trials if t.state != states.FAIL}
    for key in wanted:
        if key not in living:
            study.enqueue_trial({}, user_attrs={_CANDIDATE: key})
    queue = study.get_trials(deepcopy=False, states=(states.WAITING,))
    return any(t.user_attrs.get(_CANDIDATE) in wanted for t in queue)


def _taken_before(study: Any, key: str, number: int) -> bool:
    """Whether an earlier trial that did not fail has the candidate: two runs that begin together may both queue it."""
    return any(
        t.number < number and t.user_attrs.get(_CANDIDATE) == key and t.state.name != "FAIL"
        for t in study.get_trials(deepcopy=False)
    )


def _ended_by_another(study: Any, number: int) -> bool:
    """Whether a trial that this run could not end has its row: SQLite may give two runs the same one, and one is first."""
    return study.get_trials(deepcopy=False)[number].state.name in ("COMPLETE", "PRUNED")


def _rows(study: Any, wanted: Mapping[str, PruneConfig]) -> dict[str, Row]:
    trials = study.get_trials(deepcopy=False)
    carried = [(t.user_attrs.get(_CANDIDATE), t.user_attrs.get(_ROW)) for t in trials]
    return {key: Row.from_dict(json.loads(row)) for key, row in carried if key in wanted and row is not None}
