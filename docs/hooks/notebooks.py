"""Makes a notebook of every page in ``tutorials/`` while the site is built, and links it under the page's title.

Text becomes cells of Markdown, blocks of Python cells of code with the output that the page shows, and indented commands
cells that begin with ``!``. The pages are the only source: no notebook is stored.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

FOLDER = "tutorials"
_BLOCK = re.compile(
    r"```python\n(?P<code>.*?)```\n(?:```text\n(?P<output>.*?)```\n)?|(?<=\n\n)(?P<commands>(?: {4}[^\n]*\n)+)",
    re.DOTALL,
)
_COMMANDS = re.compile(r"^ {4}", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]+\)")
_TITLE = re.compile(r"\A# .*\n")


def on_files(files: Any, *, config: Any, **_: Any) -> Any:
    """Add the notebooks to the files of the site; called by MkDocs once."""
    from mkdocs.structure.files import File

    for page in [each for each in files.documentation_pages() if is_tutorial(each.src_uri)]:
        text = json.dumps(notebook(page.content_string), indent=1, ensure_ascii=False) + "\n"
        files.append(File.generated(config, name_of(page.src_uri), content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page's text with a link to its notebook; called by MkDocs for every page."""
    uri = page.file.src_uri
    return linked(markdown, PurePosixPath(name_of(uri)).name) if is_tutorial(uri) else markdown


def is_tutorial(uri: str) -> bool:
    """Say whether a page has a notebook."""
    return uri.startswith(f"{FOLDER}/") and uri.endswith(".md")


def name_of(uri: str) -> str:
    """Return where a page's notebook lies in the site."""
    return str(PurePosixPath(uri).with_suffix(".ipynb"))


def linked(markdown: str, name: str) -> str:
    """Return a page's text with a link to the notebook `name` under its title."""
    return _TITLE.sub(lambda title: f"{title[0]}\n[This page as a notebook]({name})\n", markdown)


def notebook(markdown: str) -> dict[str, Any]:
    """Return a page as a notebook of format 4.5.

    Links inside the site lose their address, which means nothing where a notebook is opened.
    """
    cells: list[dict[str, Any]] = []
    end = 0
    for block in _BLOCK.finditer(markdown):
        cells += _text(markdown[end : block.start()])
        commands = _COMMANDS.sub("", block["commands"] or "")
        cells.append(_code(_shell(commands) if commands else block["code"], block["output"]))
        end = block.end()
    cells += _text(markdown[end:])
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _shell(commands: str) -> str:
    """Return commands with the sign by which a notebook gives them to the shell; a continued line has none."""
    return re.sub(r"(?<!\\\n)^(?=\S)", "!", commands, flags=re.MULTILINE)


def _text(markdown: str) -> list[dict[str, Any]]:
    source = _LINK.sub(r"\1", markdown).strip()
    return [{"cell_type": "markdown", "metadata": {}, "source": _lines(source)}] if source else []


def _code(source: str, output: str | None) -> dict[str, Any]:
    shown = [{"output_type": "stream", "name": "stdout", "text": _lines(output)}] if output else []
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": shown,
        "source": _lines(source.rstrip("\n")),
    }


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
