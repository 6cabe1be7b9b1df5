"""The same decision in every process: rank 0 decides, the others take over; whole values of sharded tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn

from torchthin.errors import ProofError
from torchthin.trace.clone import state_tensors

BoolArray = npt.NDArray[np.bool_]


def several() -> bool:
    """Whether this process is one of several that train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def from_first(flags: Tensor) -> Tensor:
    """Return the bool tensor that rank 0 has; every rank calls this with one of the same shape."""
    if not several():
        return flags
    shared = flags.to(torch.uint8).contiguous()
    distributed.broadcast(shared, src=0)
    return shared.bool()


def refuse_different(what: str, digest: bytes, device: torch.device) -> None:
    """Raise ProofError on every rank when their digests (see `digest_of`) are not all the same."""
    if not several():
        return
    own = torch.frombuffer(bytearray(digest[:8]), dtype=torch.int64).to(device)
    found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, own)
    if any(not torch.equal(other, found[0]) for other in found):
        raise ProofError(
            f"The processes that train together found different {what}. "
            "Give every rank the same model, weights and example_inputs."
        )


def digest_of(parts: Iterator[Any]) -> bytes:
    """Return the SHA-256 of arrays and of what else prints the same in every process."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return total.digest()


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor, of which each process holds a part."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor; of a sharded one every rank gets all of it, and every rank must ask."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def part_of(mask: Tensor, tensor: Tensor) -> Tensor:
    """Return the part of a whole mask that belongs to this process's part of `tensor`; every rank must ask."""
    if not is_sharded(tensor):
        return mask.to(tensor.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    spread = distribute_tensor(mask.to(torch.uint8), mesh, placements)
    return spread.to_local().bool()


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


class WholeTensors(Mapping[str, Tensor]):
    """The parameters and buffers of a model by name; sharded ones are gathered one at a time, when asked for."""

    def __init__(self, model: nn.Module, computed: Mapping[str, Tensor]) -> None:
        self._tensors = dict(state_tensors(model)) | dict(computed)

    def __getitem__(self, name: str) -> Tensor:
        return whole(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
