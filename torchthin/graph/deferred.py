"""Large tensors of a model that have values only while an op reads them, so that a converted copy costs one layer.

In their place the model holds placeholders: untouched memory of the right shape, which takes addresses and no room. A dispatch
mode puts the values in, whenever an op gets a placeholder or a view of it. A change in place is refused; one of
``weight.data`` lasts only as long as the values do.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from torchthin.graph.fake import ReadGuard
from torchthin.graph.operators import storage_key
from torchthin.graph.reused_memory import ReusedMemory

SMALLEST = 2**14
"""Tensors of fewer numbers are made at once."""
ROOM = 2**29
"""Bytes that are kept: what fits is made once for all runs, and recurrent layers read a weight at every step."""


class Deferred:
    """The placeholders of tensors, and how to make the tensors."""

    def __init__(self) -> None:
        self._factories: dict[int, Callable[[], Tensor]] = {}
        self._placeholders: list[Tensor] = []
        self._made: OrderedDict[int, Tensor] = OrderedDict()
        self._kept = 0
        """Bytes of those that have values now."""
        self.memory = ReusedMemory()
        """For values that are made by conversion."""

    def __bool__(self) -> bool:
        return bool(self._factories)

    def takes(self, tensor: Tensor) -> bool:
        """Whether it pays to put off what stands for a tensor: it is large, and laid out as placeholders are."""
        return tensor.numel() >= SMALLEST and tensor.is_contiguous()

    def placeholder(self, shape: tuple[int, ...], like: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Return a tensor of the shape, and of the dtype and device of `like`, for what `make` gives, contiguous."""
        made = _untouched(shape, like)
        self._factories[storage_key(made)] = make
        self._placeholders.append(made)
        return made

    def holds(self, item: Any) -> bool:
        """Whether a tensor is a placeholder, or a view of one."""
        return isinstance(item, Tensor) and storage_key(item) in self._factories

    def guard(self) -> contextlib.AbstractContextManager[object]:
        """Let code that takes numbers out of a placeholder past the dispatcher end with `DataDependent` in the block."""
        return ReadGuard(self.holds) if self else contextlib.nullcontext()

    def values(self, tensor: Tensor) -> Tensor:
        """Return the tensor with its values; one that is no placeholder as it is."""
        key = storage_key(tensor)
        if key not in self._factories:
            return tensor
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._factories[key]().contiguous()
            self._kept += made.nbytes
            self._forget()
        else:
            self._made.move_to_end(key)
        if tensor.shape == made.shape and tensor.stride() == made.stride():
            return made
        return made.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def _forget(self) -> None:
        while self._made and self._kept > ROOM:
            self._kept -= self._made.popitem(last=False)[1].nbytes

    def filled(self, argument: Any) -> Any:
        """Return an op's argument with the values of every tensor in it."""
        if isinstance(argument, Tensor):
            return self.values(argument)
        if isinstance(argument, (list, tuple)):
            return type(argument)(self.filled(item) for item in argument)
        return argument


def _untouched(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return memory of its own mapping: among what malloc gives, it would keep freed pages around it from going back."""
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or not size:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    return torch.frombuffer(mmap.mmap(-1, size, access=mmap.ACCESS_COPY), dtype=like.dtype).view(shape)


class FilledIn(Mapping[str, Tensor]):
    """Tensors by name, with values made as they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], deferred: Deferred) -> None:
        self._tensors = tensors
        # Its factories may ask here: in a cycle values would outlive their use.
        self._deferred = weakref.ref(deferred)

    def __getitem__(self, name: str) -> Tensor:
        deferred = self._deferred()
        assert deferred is not None
        return deferred.values(self._tensors[name])

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # what a mapping does without this makes the values

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@cache
def writes(func: Any) -> bool:
    """Whether an op changes an argument."""
    return bool(func._schema.is_mutable)
