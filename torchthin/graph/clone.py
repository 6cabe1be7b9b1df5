"""Copies of a model that share, replace or convert its tensors: the structure is copied, never the big arrays twice."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from torchthin.errors import InputError
from torchthin.graph.closures import rebound

_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, type})
"""Types of attributes that hold nothing and are never copied."""
_CONTAINERS = frozenset({dict, OrderedDict, set, list, tuple})
_PLAIN = _ATOMS | _CONTAINERS
_REGISTERED = frozenset({"_parameters", "_buffers", "_modules"})

Exchange = Callable[[str, Tensor], Tensor]
"""(name, tensor) -> the tensor that takes its place in the copy."""


def modules_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every module once with its path, as ``named_modules`` does, whose generators cost a step per level."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found.append((path, module))
        children = module._modules
        if children:
            prefix = f"{path}." if path else ""
            waiting.extend(
                (prefix + name, child) for name, child in reversed(children.items()) if child is not None
            )
    return found


def state_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return every parameter, then every buffer (also non-persistent ones), once, under its first name.

    Last come tensors that modules hold as plain attributes (positions that a constructor computed), except those that were
    computed from others with a gradient: their modules compute them again.
    """
    return _state_tensors(modules_of(model))


def _state_tensors(modules: list[tuple[str, nn.Module]]) -> list[tuple[str, Tensor]]:
    seen: set[int] = set()
    found: list[tuple[str, Tensor]] = []
    for kind in ("_parameters", "_buffers"):
        for path, module in modules:
            tensors: dict[str, Tensor | None] = getattr(module, kind)
            if not tensors:
                continue
            prefix = f"{path}." if path else ""
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found.append((prefix + name, tensor))
    for path, module in modules:
        attributes = module.__dict__
        if not _PLAIN.issuperset(map(type, attributes.values())):  # rarely
            for name, value in attributes.items():
                if isinstance(value, Tensor) and value.is_leaf and id(value) not in seen:
                    seen.add(id(value))
                    found.append((f"{path}.{name}" if path else name, value))
    return found


def saved_names(model: nn.Module) -> set[str]:
    """Return the names of what a state dict holds: other tensors are what the constructor makes them."""
    return {
        f"{path}.{name}" if path else name
        for path, module in modules_of(model)
        for name in (*module._parameters, *module._buffers)
        if name not in getattr(module, "_non_persistent_buffers_set", ())
    }


class _Attributes(NamedTuple):
    """What one module holds."""

    path: str
    module: nn.Module
    copied: dict[str, Any]
    """Of the copy: numbers, names and empty containers; what `rest` has is still the original's."""
    rest: list[tuple[str, Any]]
    """Everything else."""


def _attributes(modules: list[tuple[str, nn.Module]]) -> list[_Attributes]:
    """Look through the attributes of all modules once: nearly all are numbers or empty containers."""
    found = []
    for path, module in modules:
        copied, rest = dict(vars(module)), []
        for name, value in copied.items():
            kind = type(value)
            if kind in _ATOMS:
                continue
            if kind in _CONTAINERS and not value:
                copied[name] = kind()
            else:
                rest.append((name, value))
        found.append(_Attributes(path, module, copied, rest))
    return found


def _plain_tensors(attributes: list[_Attributes]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors that modules hold as plain attributes, also in lists and dicts, under the attribute's name.

    Some were computed from parameters: the ``weight`` of ``torch.nn.utils.prune`` and ``weight_norm``, cached biases.
    """
    for path, _, _, rest in attributes:
        for name, value in rest:
            if name in _REGISTERED or not isinstance(value, (Tensor, list, tuple, dict)):
                continue
            parts = value.values() if isinstance(value, dict) else value
            if not isinstance(value, Tensor) and all(type(part) in _ATOMS for part in parts):
                continue  # nearly all: a few numbers
            for leaf in tree_flatten(value)[0]:
                if isinstance(leaf, Tensor):
                    yield (f"{path}.{name}" if path else name), leaf


def clone(model: nn.Module, exchange: Exchange) -> nn.Module:
    """Return a structural copy of `model` in which every tensor is what `exchange` gives for it.

    Tied tensors stay tied. Parameters stay parameters, and keep their ``requires_grad``. Tensors that are plain
    attributes of modules are exchanged as well, detached from what they were computed from.

    Raises:
        InputError: when the model cannot be deep-copied.
    """
    modules = modules_of(model)
    memo: dict[int, Any] = {}
    for name, tensor in _state_tensors(modules):
        new = exchange(name, tensor)
        if new.requires_grad and not isinstance(tensor, nn.Parameter):
            new = new.detach().requires_grad_()
        if isinstance(tensor, nn.Parameter) and not isinstance(new, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad and new.is_floating_point())
        memo[id(tensor)] = new
        if tensor.grad is not None:
            memo[id(tensor.grad)] = None
    attributes = _attributes(modules)
    for name, tensor in _plain_tensors(attributes):
        if id(tensor) not in memo:
            wants_grad = tensor.is_leaf and tensor.requires_grad
            memo[id(tensor)] = exchange(name, tensor.detach()).requires_grad_(wants_grad)
    try:
        _copy_plain_modules(attributes, memo)
        return copy.deepcopy(model, memo)
    except Exception as error:
        cause = " ".join(str(error).split())
        raise InputError(
            f"The model ({type(model).__name__}) cannot be copied: {cause}. "
            "Remove cached tensors and open handles from its attributes, or give a fresh instance."
        ) from error


_CUSTOM = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__")


def _copy_plain_modules(attributes: list[_Attributes], memo: dict[int, Any]) -> None:
    """Put copies of all modules without copying rules of their own into `memo`.

    What ``copy.deepcopy`` would make, in a fifth of the time: most of a module's containers are empty.
    """
    plain_kinds = {kind for kind in {type(item.module) for item in attributes} if _is_plain(kind)}
    plain = [item for item in attributes if type(item.module) in plain_kinds]
    for item in plain:
        memo[id(item.module)] = object.__new__(type(item.module))
    for item in reversed(plain):  # children first: a copying rule of a parent's own may look at them
        for name, value in item.rest:
            item.copied[name] = _copied(value, memo)
        memo[id(item.module)].__dict__.update(item.copied)


def _is_plain(kind: type[nn.Module]) -> bool:
    return kind.__new__ is object.__new__ and all(
        getattr(kind, name, None) is getattr(nn.Module, name, None) for name in _CUSTOM
    )


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS or (kind is tuple and all(type(part) in _ATOMS for part in value)):
        return value
    known = memo.get(id(value), memo)
    if known is not memo:
        return known
    if kind is FunctionType:
        return rebound(value, memo)
    if kind not in _CONTAINERS:
        return copy.deepcopy(value, memo)
    if not value:
        return kind()
    if kind is list:
        parts: list[Any] = []
        memo[id(value)] = parts
        parts.extend(_copied(part, memo) for part in value)
        return parts
    if kind in (dict, OrderedDict) and all(type(key) in (str, int) for key in value):
        made: dict[str | int, Any] = kind()
        memo[id(value)] = made
        made.update((key, _copied(part, memo)) for key, part in value.items())
        return made
    return copy.deepcopy(value, memo)


def share(name: str, tensor: Tensor) -> Tensor:
    """Exchange that keeps parameters and copies buffers, which a forward pass may change."""
    return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()


def duplicate(name: str, tensor: Tensor) -> Tensor:
    """Exchange that copies every tensor."""
    return tensor.detach().clone()


def to_double(name: str, tensor: Tensor) -> Tensor:
    """Exchange that converts floating point tensors to float64."""
    return tensor.detach().to(torch.float64) if tensor.is_floating_point() else tensor.detach().clone()
