"""Fills in ``api.md``: every public name, with its docstring, in the place of ``<!-- public names -->``.

A public name is one of ``torchthin.__all__``, or of ``__all__`` of a module that a user imports by its own name.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

from torchthin.config import Target

PAGE = "api.md"
MARK = "<!-- public names -->"
MODULES = ("torchthin", "torchthin.io.export", "torchthin.integrations.transformers")
SECTIONS = ("Functions", "Targets and options", "Classes", "Errors", "Constants")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the page's text; called by MkDocs for every page."""
    if page.file.src_uri != PAGE:
        return markdown
    return markdown.replace(MARK, "\n".join(map(section_of_module, MODULES)))


def section_of_module(name: str) -> str:
    """Return a heading for the module and a directive of mkdocstrings for each of its public names."""
    module = importlib.import_module(name)
    lines = [f"## `{name}`", ""]
    for title in SECTIONS:
        names = [public for public in sorted(module.__all__, key=str.lower) if kind(module, public) == title]
        lines += [f"### {title}", ""] if names else []
        for public in names:
            lines += [f"::: {name}.{public}", "    options: {heading_level: 4}", ""]
    return "\n".join(lines)


def kind(module: ModuleType, name: str) -> str:
    """Return the title under which a name is listed."""
    value = getattr(module, name)
    if not inspect.isclass(value):
        return "Functions" if callable(value) else "Constants"
    if issubclass(value, Exception):
        return "Errors"
    options = issubclass(value, Target) or value.__module__.startswith("torchthin.config")
    return "Targets and options" if options else "Classes"
