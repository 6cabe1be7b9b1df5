"""Turns links to files of the repository that are no pages into words: the site does not have those files."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?P<path>\.\./[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page's text without dead links; called by MkDocs for every page."""
    return without_dead_links(markdown, page.file.src_uri)


def without_dead_links(markdown: str, uri: str) -> str:
    """Return the text of the page `uri`, with files outside ``docs/`` named by their path in the repository."""

    def named(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), link["path"]))
        return link[0] if path.startswith("docs/") else f"{link[1]} (`{path}` in the repository)"

    return _OUTSIDE.sub(named, markdown)
