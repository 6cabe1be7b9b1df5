"""The part of ``prune`` that recovers a thinned model from ``--data``, in one process or in several."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Console
from torchthin.cli.prune_options import PruneOptions
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from torchthin.io.calibration import Calibration
    from torchthin.pruning.result import PruneResult


def recovers(options: PruneOptions) -> bool:
    """Whether the thinned model is recovered from data."""
    data = options.data
    return data.recover and data.data is not None and options.prune.thin and options.training.train is None


def check_recovery(options: PruneOptions) -> None:
    """Raise ConfigError when epochs are asked for and nothing is recovered."""
    if options.data.recovery.epochs and not recovers(options):
        raise ConfigError(
            "The option --recover-epochs needs --thin and --data, and neither --no-recover nor --train."
        )


def recovered(
    model: nn.Module,
    result: PruneResult,
    inputs: Any,
    data: Calibration | None,
    options: PruneOptions,
    console: Console,
) -> PruneResult:
    """Recover the thinned model; with a progress bar on a terminal."""
    from torchthin.pruning.recover import recover

    how, path = options.data.recovery, options.files.save_to
    state = Path(f"{path}.recovery") if path is not None and how.epochs else None
    with console.progress("Recovering") as progress:
        return recover(model, result, inputs, data, recovery=how, state=state, progress=progress)


@contextlib.contextmanager
def joined_processes(options: PruneOptions) -> Iterator[int]:
    """Give this process's number among those that torchrun or accelerate started for ``--recover-epochs``; 0 where it is alone.

    All do the same up to the distillation, of which each takes a share; what comes after it is rank 0's.
    """
    environment = os.environ
    started = "RANK" in environment and "MASTER_ADDR" in environment
    several = started and environment.get("WORLD_SIZE", "1") != "1"
    if not several or not options.data.recovery.epochs or not recovers(options):
        yield 0
        return
    import torch
    import torch.distributed.nn  # before the group: imported later (by optimizers), its defaults keep the group's threads alive
    from torch import distributed

    cuda = options.model.device.startswith("cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()
