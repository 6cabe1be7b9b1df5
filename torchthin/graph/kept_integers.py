"""Integers that modules keep: in attributes, and in tuples, lists, dicts and configuration objects that attributes hold."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from torchthin.graph.clone import modules_of
from torchthin.graph.tracked import Attribute

MOST = 256
"""Entries of a container that is looked into: larger ones are vocabularies and data."""
DEEPEST = 4
_OWN = frozenset(vars(nn.Module()))
"""What every module has: hooks, parameters, children."""
_CLOSED = (nn.Module, Tensor, type, str, bytes, set, frozenset)
"""Types that are not looked into."""

Exchange = Callable[[Attribute, int], int]
"""What takes the place of an integer; the same object where it stays."""


def exchange_integers_(modules: Iterable[tuple[str, nn.Module]], exchange: Exchange) -> None:
    """Exchange integers that modules keep. Containers are not changed: a module that held one gets another in its place.

    An object that several modules hold (a configuration) stays one object, whose integers are named after its first place.
    """
    walk = _Walk(exchange)
    for path, module in modules:
        attributes = vars(module)
        for name in [name for name in attributes if name not in _OWN]:
            value = attributes[name]
            new = walk.exchanged(Attribute(path, name), value)
            if new is not value:
                attributes[name] = new


class _Walk:
    """One walk through the modules of a model."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._met: dict[int, tuple[Any, Any]] = {}
        """Address of an object that several modules may hold -> the object, and what takes its place."""

    def exchanged(self, place: Attribute, value: Any, depth: int = 0) -> Any:
        """Return what takes the place of a value."""
        kind = type(value)
        if kind is int:
            return self._exchange(place, value)
        if isinstance(value, tuple):
            return self._of_tuple(place, value, depth)
        if depth >= DEEPEST or not _is_open(value):
            return value
        if id(value) not in self._met:
            self._met[id(value)] = value, value  # what it holds may lead back to it
            self._met[id(value)] = value, self._of_object(place, value, depth)
        return self._met[id(value)][1]

    def _entries(self, place: Attribute, entries: Iterable[tuple[Any, Any]], depth: int) -> dict[Any, Any]:
        """Return the entries that get another value, by key."""
        found = {}
        for key, value in entries:
            if isinstance(key, int) or (isinstance(key, str) and "." not in key):
                new = self.exchanged(Attribute(place.module, f"{place.path}.{key}"), value, depth + 1)
                if new is not value:
                    found[key] = new
        return found

    def _of_tuple(self, place: Attribute, value: tuple[Any, ...], depth: int) -> Any:
        changed = self._entries(place, enumerate(value), depth) if len(value) <= MOST else {}
        if not changed:
            return value
        parts = [changed.get(number, part) for number, part in enumerate(value)]
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)

    def _of_object(self, place: Attribute, value: Any, depth: int) -> Any:
        entries = entries_of(value)
        changed = self._entries(place, entries.items(), depth) if len(entries) <= MOST else {}
        if not changed:
            return value
        try:
            made = copy.copy(value)
            content = made if isinstance(made, (list, dict)) else vars(made)
            for key, new in changed.items():
                content[key] = new
        except Exception:  # a class that forbids it: its integers stay
            return value
        return made


def _is_open(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return True
    known = isinstance(value, _CLOSED) or callable(value) or type(value).__module__.startswith("torch.")
    return hasattr(value, "__dict__") and not known


def entries_of(value: Any) -> Mapping[Any, Any]:
    """Return what a container or object holds, by key; nothing of what is neither."""
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else getattr(value, "__dict__", {})


def kept_value(module: nn.Module | None, path: str) -> Any:
    """Return what a module keeps at the path of an `Attribute`, as it is stored: no code of the class runs.

    Raises:
        LookupError: there is nothing.
    """
    name, *keys = path.split(".")
    value = inspect.getattr_static(module, name, _OWN)
    if value is _OWN:
        raise LookupError(path)
    for key in keys:
        entries = entries_of(value)
        value = entries[int(key)] if key not in entries and key.isdecimal() else entries[key]
    return value


def set_kept_values_(model: nn.Module, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Set what modules keep, by path of the module and of the attribute."""
    modules = modules_of(model)
    inner = {
        (path, name): value for path, own in values.items() for name, value in own.items() if "." in name
    }
    if inner:
        exchange_integers_(modules, lambda place, number: inner.get(place, number))
    by_path = dict(modules)
    for path, own in values.items():
        for name, value in own.items():
            if "." not in name:
                setattr(by_path[path], name, value)
