"""What goes into an ATen op and what comes out, and which tensors share storage."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def may_share(func: Any) -> bool:
    """Whether a result of an op may share storage with what goes in, or be it: its schema says so, or nobody knows."""
    known = func.namespace == "aten" and func.overloadpacket not in _SILENT_VIEWS
    return not known or any(result.alias_info is not None for result in func._schema.returns)


@cache  # torch makes a new Python list of the tags at every look
def is_inplace_view(func: Any) -> bool:
    """Whether an op changes the shape of the tensor that it is given (``squeeze_``)."""
    return torch.Tag.inplace_view in func.tags


_aten = torch.ops.aten
_SILENT_VIEWS = frozenset({
    _aten._unsafe_view, _aten.unsafe_split, _aten.unsafe_split_with_sizes, _aten.unsafe_chunk, _aten.lift,
})  # fmt: skip
"""Views whose schema does not say that they are."""


def storage_key(tensor: Tensor) -> int:
    """Return a number that tensors with the same live storage share."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(argument: Any) -> Iterator[Tensor]:
    """Yield the tensors of an op argument (a tensor, or a list that may hold some)."""
    if isinstance(argument, Tensor):
        yield argument
    elif isinstance(argument, (list, tuple)):
        yield from (item for item in argument if isinstance(item, Tensor))


def as_outputs(result: Any) -> list[Tensor | None]:
    """Return an op's results as a flat list of tensors; what is no tensor is None."""
    items = result if isinstance(result, (list, tuple)) else [result]
    flat: list[Tensor | None] = []
    for item in items:
        if isinstance(item, (list, tuple)):
            flat.extend(t if isinstance(t, Tensor) else None for t in item)
        else:
            flat.append(item if isinstance(item, Tensor) else None)
    return flat


def by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an op by the names in its schema."""
    return {**dict(zip(argument_names(func), args, strict=False)), **kwargs}


@cache  # torch makes new Python objects of the schema at every look
def argument_names(func: Any) -> tuple[str, ...]:
    """Return the names of an op's arguments in the order of its schema."""
    return tuple(argument.name for argument in func._schema.arguments)
