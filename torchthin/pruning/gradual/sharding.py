"""Whole values of sharded tensors, and the part that each process has of a whole mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from torchthin.graph.clone import state_tensors


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

    def __init__(self, model: nn.Module, derived: Mapping[str, Tensor]) -> None:
        self._tensors = dict(state_tensors(model)) | dict(derived)

    def __getitem__(self, name: str) -> Tensor:
        return whole(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
