"""A command that torchrun or accelerate started several times: the processes find each other, and the first one speaks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from torchthin.cli.options import PruneOptions
from torchthin.cli.recovery import recovers


@contextlib.contextmanager
def joined_processes(options: PruneOptions) -> Iterator[int]:
    """Give this process's number among those that train together with ``--recover-epochs``; 0 where it is alone.

    All do the same up to the training, of which each takes a share; what comes after it is rank 0's.
    """
    environment = os.environ
    together = "RANK" in environment and "MASTER_ADDR" in environment
    if (
        not together
        or environment.get("WORLD_SIZE", "1") == "1"
        or not (options.recover_epochs and recovers(options))
    ):
        yield 0
        return
    import torch
    import torch.distributed.nn  # before the group: imported later (by optimizers), its defaults keep the group's threads alive
    from torch import distributed

    cuda = options.device.startswith("cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()
