"""The numbers of a configuration, at any depth: which there are, and other ones in their places."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

Field = tuple[str | int, ...]
"""The way to a number: keys of dicts, indices of lists."""
Values = Mapping[Field, "int | float | None"]

_MOST = 256
"""Entries of a container that is looked into: larger ones are names of classes."""


def numbers_of(config: Any, path: Field = ()) -> Iterator[tuple[Field, int | float | None]]:
    """Yield every whole number, floating point number and None of a configuration that was made a dict."""
    if config is None or (isinstance(config, int | float) and not isinstance(config, bool)):
        yield path, config
    elif isinstance(config, dict | list | tuple) and len(config) <= _MOST:
        entries = config.items() if isinstance(config, dict) else enumerate(config)
        for key, value in entries:
            if isinstance(key, str | int) and key not in ("label2id", "id2label"):
                yield from numbers_of(value, (*path, key))


def with_numbers(config: Mapping[str, Any], values: Mapping[Field, Any]) -> dict[str, Any]:
    """Return a copy of the configuration with other numbers (or whole lists of them) in these places."""
    made = copy.deepcopy(dict(config))
    for path, value in values.items():
        _set_(made, path, value)
    return made


def _set_(holder: Any, path: Field, value: Any) -> None:
    key, *rest = path
    if rest:
        if isinstance(holder[key], tuple):
            holder[key] = list(holder[key])
        _set_(holder[key], tuple(rest), value)
    else:
        holder[key] = value


def name_of(field: Field) -> str:
    """Return a field as a person writes it."""
    return ".".join(map(str, field))
