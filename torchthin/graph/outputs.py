"""The tensors in what a model returns."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

_PLAIN = (int, float, complex, str, bytes, type(None), type, enum.Enum, torch.dtype, torch.device, torch.Size)
_CLOSED = (nn.Module, ModuleType, FunctionType, MethodType)


def output_tensors(outputs: Any) -> list[Tensor]:
    """Return every tensor in `outputs`, always in the same order.

    Looked into are lists, tuples, mappings, what torch's pytree knows, and the attributes of any other object
    (dataclasses, Hugging Face's outputs, classes of one's own), at any depth.
    """
    return [leaf for leaf in _leaves(outputs, set()) if isinstance(leaf, Tensor)]


def opaque_types(outputs: Any) -> tuple[str, ...]:
    """Name the types in `outputs` in which no tensor is seen although they are no plain values."""
    leaves = [leaf for leaf in _leaves(outputs, set()) if not isinstance(leaf, Tensor)]
    return tuple(dict.fromkeys(type(leaf).__qualname__ for leaf in leaves))


def _leaves(item: Any, seen: set[int]) -> Iterator[Any]:
    """Yield tensors, and objects that hold nothing which can be looked at."""
    if isinstance(item, Tensor):
        yield item
        return
    if isinstance(item, _PLAIN) or id(item) in seen:
        return
    seen.add(id(item))
    parts = _parts(item)
    if parts is None:
        yield item
        return
    for part in parts:
        yield from _leaves(part, seen)


def _parts(item: Any) -> list[Any] | None:
    """Return what an object holds; None when it shows nothing."""
    if isinstance(item, Mapping):
        return list(item.values())
    if isinstance(item, (list, tuple)):
        return list(item)
    known = tree_flatten(item)[0]
    if not (len(known) == 1 and known[0] is item):
        return known
    attributes = getattr(item, "__dict__", None)
    names: Iterable[str] = getattr(type(item), "__slots__", ())
    if isinstance(item, _CLOSED) or (not attributes and not names):
        return None
    slots = [getattr(item, name, None) for name in ([names] if isinstance(names, str) else names)]
    return [*(attributes or {}).values(), *slots]
