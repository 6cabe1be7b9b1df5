"""Several processes that work on one model (torchrun): rank 0 decides for all. In a single process nothing is done."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from torchthin.errors import ProofError


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return rank_and_world_size()[1] > 1


def broadcast(flags: Tensor) -> Tensor:
    """Return the bool tensor that rank 0 has; every rank calls this with one of the same shape."""
    if not is_distributed():
        return flags
    shared = flags.to(torch.uint8).contiguous()
    distributed.broadcast(shared, src=0)
    return shared.bool()


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Give every process the values that rank 0 has, in place."""
    if not is_distributed():
        return
    for tensor in tensors:
        shared = tensor.detach().contiguous()
        distributed.broadcast(shared, src=0)
        tensor.detach().copy_(shared)


def average_(tensors: Sequence[Tensor]) -> None:
    """Put the mean over all processes into every tensor; one message for all of one type."""
    count = rank_and_world_size()[1]
    if count == 1 or not tensors:
        return
    for dtype in {tensor.dtype for tensor in tensors}:
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        joined = torch.cat([tensor.flatten() for tensor in alike])
        distributed.all_reduce(joined)
        joined /= count
        for tensor, part in zip(alike, joined.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(part.view_as(tensor))


def require_equal(what: str, parts: Iterable[Any], device: torch.device) -> None:
    """Raise ProofError on every rank when the processes have different `parts`.

    Args:
        what: names the parts in the error.
        parts: arrays, and values that print the same in every process; not looked at in a single process.
        device: of the message that the processes exchange.
    """
    if not is_distributed():
        return
    total = hashlib.sha256()
    for part in parts:
        total.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    own = torch.frombuffer(bytearray(total.digest()[:8]), dtype=torch.int64).to(device)
    found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, own)
    if any(not torch.equal(other, found[0]) for other in found):
        raise ProofError(
            f"The processes that train together found different {what}. "
            "Give every rank the same model, weights and example_inputs."
        )
