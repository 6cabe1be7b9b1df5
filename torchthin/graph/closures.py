"""Functions that a model holds (hooks, lambdas): a copy of the model gets those that close over its modules as its own.

``copy.deepcopy`` takes functions as they are, so the copy would run code that looks at the original.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn


def rebound(function: FunctionType, memo: dict[int, Any]) -> Any:
    """Return a function that closes over copies where `function` closes over what was copied; else `function` itself.

    `memo`: that of a deep copy, which has the copy of every module and tensor by the id of the original. What else a
    function closes over (a list of the user's that a hook fills) stays shared.
    """
    if id(function) in memo:
        return memo[id(function)]
    if not _reaches(function, memo, set()):
        return function
    cells = function.__closure__ or ()
    own = tuple(memo.setdefault(id(cell), CellType()) for cell in cells)
    made = FunctionType(function.__code__, function.__globals__, function.__name__, None, own)
    memo[id(function)] = made
    made.__defaults__ = tuple(_copy(item, memo) for item in function.__defaults__ or ()) or None
    defaults = (function.__kwdefaults__ or {}).items()
    made.__kwdefaults__ = {name: _copy(item, memo) for name, item in defaults} or None
    for name in ("__qualname__", "__module__", "__doc__", "__annotations__"):
        setattr(made, name, getattr(function, name))
    made.__dict__.update(function.__dict__)
    for cell, new in zip(cells, own, strict=True):
        for content in _contents(cell):
            new.cell_contents = _copy(content, memo)
    return made


def _contents(cell: CellType) -> Iterator[Any]:
    """Yield what a cell holds, if anything yet."""
    try:
        yield cell.cell_contents
    except ValueError:
        return


def _reaches(item: Any, memo: dict[int, Any], seen: set[int]) -> bool:
    """Whether something is, or closes over, a module or tensor that was copied."""
    if isinstance(item, MethodType):
        return id(item.__self__) in memo
    if not isinstance(item, FunctionType) or id(item) in seen:
        return isinstance(item, (nn.Module, Tensor)) and id(item) in memo
    seen.add(id(item))
    held = [content for cell in item.__closure__ or () for content in _contents(cell)]
    held += [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
    return any(_reaches(part, memo, seen) for part in held)


def _copy(item: Any, memo: dict[int, Any]) -> Any:
    if isinstance(item, FunctionType):
        return rebound(item, memo)
    return copy.deepcopy(item, memo) if _reaches(item, memo, set()) else item
