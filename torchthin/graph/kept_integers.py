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
Plain = list[Any] | tuple[Any, ...]
"""Numbers, names and flags in a row."""
ExchangePlain = Callable[[Attribute, Plain], Plain]
_ENTRIES = frozenset({int, float, bool, str, type(None)})


def exchange_integers_(
    modules: Iterable[tuple[str, nn.Module]], exchange: Exchange, exchange_plain: ExchangePlain | None = None
) -> None:
    """Exchange integers that modules keep. Containers are not changed: a module that held one gets another in its place.

    An object that several modules hold (a configuration) stays one object, whose integers are named after its first place.

    exchange_plain: says what takes the place of a list of plain values; one that stays is looked into.
    """
    walk = _Walk(exchange, exchange_plain)
    for path, module in modules:
        attributes = vars(module)
        for name in [name for name in attributes if name not in _OWN]:
            value = attributes[name]
            new = walk.exchanged(Attribute(path, name), value)
            if new is not value:
                attributes[name] = new


class _Walk:
    """One walk through the modules of a model."""

    def __init__(self, exchange: Exchange, exchange_plain: ExchangePlain | None = None) -> None:
        self._exchange = exchange
        self._exchange_plain = exchange_plain
        self._met: dict[int, tuple[Any, Any]] = {}
        """Address of an object that several modules may hold -> the object, and what takes its place."""

    def exchanged(self, place: Attribute, value: Any, depth: int = 0) -> Any:
        """Return what takes the place of a value."""
        kind = type(value)
        if kind is int:
            return self._exchange(place, value)
        if (
            self._exchange_plain is not None
            and kind in (list, tuple)
            and _ENTRIES.issuperset(map(type, value))
        ):
            new = self._exchange_plain(place, value)
            if new is not value:
                return new
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

    def other(place: Attribute, now: Plain) -> Plain:
        return type(now)(inner[place]) if isinstance(inner.get(place), (list, tuple)) else now

    if inner:
        exchange_integers_(modules, lambda place, number: inner.get(place, number), other)
    by_path = dict(modules)
    for path, own in values.items():
        for name, value in own.items():
            if "." not in name:
                now = getattr(by_path[path], name, None)
                setattr(by_path[path], name, list(value) if isinstance(now, list) else value)


def kept_values(model: nn.Module) -> dict[Attribute, Any]:
    """Return the integers that modules keep, and the lists of plain values, which are not looked into."""
    found: dict[Attribute, Any] = {}

    def note_integer(place: Attribute, value: int) -> int:
        return found.setdefault(place, value)  # type: ignore[no-any-return]

    def note_list(place: Attribute, value: Plain) -> Plain:
        found[place] = list(value)
        return value

    exchange_integers_(modules_of(model), note_integer, note_list)
    return {place: value for place, value in found.items() if not any(_holds(found, place))}


def _holds(found: Mapping[Attribute, Any], place: Attribute) -> Iterable[bool]:
    """Yield for every list on the way to a place whether it is one of those found."""
    parts = place.path.split(".")
    for end in range(1, len(parts)):
        yield isinstance(found.get(Attribute(place.module, ".".join(parts[:end]))), list)
