"""Files that a user names: only regular ones are opened, and JSON and YAML are read as data of bounded depth and size."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MOST_VALUES = 10_000_000
"""Letters and numbers that a file may spell out, each as often as it is referred to: lists that share lists grow without end."""


def regular(path: str | Path) -> Path:
    """Return `path`; what is there must be a regular file, a folder, or nothing.

    Raises:
        OSError: it is a pipe, a socket or a device, which would be waited for, read without end or replaced.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", str(path))
    return path


def read_text(path: str | Path) -> str:
    """Return the text in a file.

    Raises:
        OSError: it cannot be opened, or is no regular file.
        UnicodeDecodeError: it is no text.
    """
    return regular(path).read_text(encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: it is not JSON, nested too deep, or has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_repeats(key for key, _ in pairs)
    return dict(pairs)


def _refuse_repeats(keys: Iterable[str]) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(f"the key {twice[0]!r} is there twice")


def read_yaml(path: str | Path) -> Any:
    """Return what a YAML file says, in plain types.

    Raises:
        OSError: it cannot be opened, or is no regular file.
        ValueError: it is no YAML of plain types, nested too deep, has a key twice, or spells out too much by its aliases.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _refuse_repeats(key.value for key in keys if not key.tag.endswith(":merge"))
            return node

    try:
        content = yaml.load(read_text(path), Loader)
        refuse_too_many(content)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return content


def refuse_too_many(content: object) -> None:
    """Raise ValueError when `content` spells out more than `MOST_VALUES`, RecursionError when it is nested too deep."""
    if values_in(content, {}) > MOST_VALUES:
        raise ValueError(
            f"it spells out more than {MOST_VALUES:,} letters and numbers, by lists that are in many places"
        )


def values_in(content: object, known: dict[int, int]) -> int:
    """Return how many letters and numbers stand in nested containers when each is written out wherever it is referred to.

    known: the number of each container, by its ``id``; one that holds itself raises ValueError.
    """
    parts: Iterable[object]
    if isinstance(content, str):
        return 1 + len(content)
    if callable(numel := getattr(content, "numel", None)):  # a tensor; this module does without torch
        return int(numel())
    if isinstance(content, Mapping):
        parts = (part for pair in content.items() for part in pair)
    elif isinstance(content, list | tuple | set | frozenset):
        parts = content
    else:
        return 1
    if id(content) not in known:
        known[id(content)] = 0
        known[id(content)] = 1 + sum(values_in(part, known) for part in parts)
    elif not known[id(content)]:
        raise ValueError("it holds a list or mapping that holds itself")
    return known[id(content)]
