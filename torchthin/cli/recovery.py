"""The part of ``prune`` that recovers a thinned model from ``--data``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torchthin.cli.options import PruneOptions
from torchthin.config import Pixels, Recovery
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from torchthin.io.calibration import Calibration
    from torchthin.pruning.result import PruneResult
    from torchthin.recovery.distillation import Progress


class DataOptions(Protocol):
    """Options that name inputs without labels."""

    @property
    def data(self) -> str | None:
        """Where they are."""

    @property
    def data_limit(self) -> int:
        """Most of them to take."""

    @property
    def data_mean(self) -> tuple[float, ...]:
        """Taken from pictures."""

    @property
    def data_std(self) -> tuple[float, ...]:
        """By which pictures are divided then."""


def recovers(options: PruneOptions) -> bool:
    """Whether the thinned model is recovered from data."""
    return options.recover and options.data is not None and options.prune.thin and options.train is None


def check_recovery(options: PruneOptions) -> None:
    """Raise ConfigError when a recovery is asked for that cannot be."""
    if options.recover_epochs and not recovers(options):
        raise ConfigError(
            "The option --recover-epochs needs --thin and --data, and neither --no-recover nor --train."
        )

    Recovery(epochs=options.recover_epochs, loss=options.recover_outputs)  # raises what is wrong with them


def calibrated(options: DataOptions, model: nn.Module, inputs: Any) -> Calibration | None:
    """Read --data once, for criteria and recovery; None without it.

    Raises:
        InputError: the data cannot be read or do not fit the model.
    """
    if options.data is None:
        return None
    from torchthin.graph.inputs import as_inputs, own_example
    from torchthin.io.calibration import calibration

    example = own_example(model) if inputs is None else inputs
    if example is None:
        raise ConfigError(
            "The option --data needs the model's input. Give --input-shape 1,3,128,128 or --dataset."
        )
    pixels = Pixels(options.data_mean, options.data_std)
    return calibration(options.data, like=as_inputs(example), max_samples=options.data_limit, pixels=pixels)


def state_path(options: PruneOptions) -> Path | None:
    """Return the file from which an interrupted distillation goes on: beside the file to save."""
    return None if options.save_to is None else Path(f"{options.save_to}.recovery")


def recovered(
    model: nn.Module, result: PruneResult, inputs: Any, options: PruneOptions, *, quiet: bool
) -> PruneResult:
    """Recover the thinned model; with a progress bar on a terminal."""
    from torchthin.graph.inputs import own_example
    from torchthin.pruning.recover import recover

    with progress_bar("Recovering", quiet=quiet) as progress:
        return recover(
            model,
            result,
            own_example(model) if inputs is None else inputs,
            calibrated(options, model, inputs),
            recovery=Recovery(epochs=options.recover_epochs, loss=options.recover_outputs),
            state=state_path(options) if options.recover_epochs else None,
            progress=progress,
        )


@contextlib.contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[Progress | None]:
    """Give a function that moves a bar on stderr; None where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} epochs"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, loss: bar.update(task, completed=done, total=total)
