"""Models built without memory for their parameters, to take those that lie in a file; buffers get their values."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

_DEFAULTS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""Types that torch takes for its default."""
_DRAWS = frozenset({"normal_", "uniform_", "kaiming_uniform_"})
"""Methods, and functions of `torch.nn.init` (or in their place), that take milliseconds to draw nothing on the meta device."""


def build_empty(factory: Callable[[], nn.Module], weights: Iterable[object]) -> nn.Module:
    """Return what `factory` makes, with parameters on the meta device and buffers as its constructors compute them.

    Numbers that constructors make without naming a type get the type that most of `weights` has, as they would beside them.
    """
    sizes: Counter[torch.dtype] = Counter()
    for tensor in weights:
        if isinstance(tensor, Tensor) and tensor.dtype in _DEFAULTS:
            sizes[tensor.dtype] += tensor.nbytes
    with _default_type(sizes.most_common(1)[0][0] if sizes else None), _empty_parameters(), _NothingDrawn():
        return factory()


@contextlib.contextmanager
def _empty_parameters() -> Iterator[None]:
    """Let modules register parameters of the meta device: what a constructor allocates is never filled, and freed at once."""
    met = WeakIdKeyDictionary()  # a parameter that several modules register stays one

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or is_lazy(parameter):
            return None
        if parameter not in met:
            met[parameter] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        return met[parameter]  # type: ignore[no-any-return]

    hook = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]  # may return a parameter
    try:
        yield
    finally:
        hook.remove()


class _NothingDrawn(TorchFunctionMode):
    """Leaves parameters of the meta device unfilled."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = args[0] if args else (kwargs or {}).get("tensor")
        if getattr(func, "__name__", "") in _DRAWS and isinstance(given, Tensor) and given.is_meta:
            return given
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _default_type(dtype: torch.dtype | None) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
