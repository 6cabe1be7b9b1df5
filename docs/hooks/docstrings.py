"""An extension of Griffe: the docstrings' two short forms, written out as its parser of Google's style wants them.

``a, b: text`` under ``Args:`` becomes an entry for each name. A paragraph of ``>>>`` lines becomes a section ``Examples:``.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^(\w+):$")
_ENTRY = re.compile(r"^    (\w+(?:, \w+)*):")


class ShortForms(griffe.Extension):
    """Changes the docstring of every object of the package."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Write the docstring out."""
        if obj.docstring is not None:
            obj.docstring.value = examples_apart(entries_apart(obj.docstring.value))


def entries_apart(text: str) -> str:
    """Return the docstring with an entry of its own for each name under ``Args:``."""
    section, entries = "", [[""]]  # lines of what has no entry, then of each entry
    names: list[list[str]] = [[]]
    for line in text.splitlines():
        title, entry = _SECTION.match(line), _ENTRY.match(line)
        section = title[1] if title else section
        if title or (entry and section == "Args"):
            names.append(entry[1].split(", ") if entry else [])
            entries.append([line])
        else:
            entries[-1].append(line)
    written = []
    for heads, lines in zip(names, entries, strict=True):
        for head in heads or [""]:
            first = _ENTRY.sub(f"    {head}:", lines[0]) if head else lines[0]
            written += [first, *lines[1:]]
    return "\n".join(written).strip("\n")


def examples_apart(text: str) -> str:
    """Return the docstring with every paragraph of ``>>>`` lines under ``Examples:``."""
    paragraphs: list[str] = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith(">>>"):
            indented = "\n".join(f"    {line}" for line in paragraph.splitlines())
            follows = bool(paragraphs) and paragraphs[-1].lstrip().startswith(("Examples:\n    >>>", ">>>"))
            paragraph = indented if follows else f"Examples:\n{indented}"
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)
