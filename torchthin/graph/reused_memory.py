"""Memory that is used again: the system makes fresh pages one by one, which takes longer than filling them."""

from __future__ import annotations

import math
import mmap
import weakref

import numpy as np
import torch
from torch import Tensor

SMALLEST = 2**20
"""Bytes of a tensor from which on it pays."""
ROOM = 2**29
"""Bytes that are kept for later, at most."""


class ReusedMemory:
    """Takes back the memory of tensors when nothing reads them or a view of them any more, and gives it to the next ones."""

    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = {}
        self._kept = 0

    def converted(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what ``tensor.to(dtype)`` gives, contiguous, in memory of its own; on other devices torch does that itself."""
        size = tensor.numel() * torch.empty(0, dtype=dtype).element_size()
        if tensor.device.type != "cpu" or size < SMALLEST or tensor.dtype == dtype:
            return tensor.to(dtype)
        return self._empty(tensor.shape, dtype, size).copy_(tensor)

    def _empty(self, shape: torch.Size, dtype: torch.dtype, size: int) -> Tensor:
        free = self._free.get(size)
        if free:
            room = free.pop()
            self._kept -= size
        else:
            room = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
        lease = np.frombuffer(room, np.uint8)  # torch keeps it as long as anything reads the tensor
        weakref.finalize(lease, _give_back, weakref.ref(self), room, size).atexit = False
        return torch.frombuffer(lease, dtype=dtype, count=math.prod(shape)).view(shape)

    def take_back(self, room: mmap.mmap, size: int) -> None:
        """Keep memory that nothing reads for the next tensor of its size."""
        if self._kept + size <= ROOM:
            self._free.setdefault(size, []).append(room)
            self._kept += size


def _give_back(owner: weakref.ref[ReusedMemory], room: mmap.mmap, size: int) -> None:
    memory = owner()
    if memory is not None:
        memory.take_back(room, size)
