"""Rows of a long run in a file of JSON lines: a run that was stopped goes on with the names that have no row yet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Records:
    """Rows with the key ``name``. Without a path they are only kept in memory."""

    def __init__(self, path: Path | None = None) -> None:
        """Read what is there; a line that a killed run left half written is dropped."""
        self._path = path
        self.rows: list[Row] = []
        if path is not None and path.exists():
            complete = path.read_text().rpartition("\n")[0]
            self.rows = [json.loads(line) for line in complete.splitlines()]
            path.write_text("".join(map(_line, self.rows)))

    @property
    def names(self) -> set[str]:
        """Names that have rows."""
        return {row["name"] for row in self.rows}

    def add(self, rows: Iterable[Row]) -> None:
        """Write the rows of one name together."""
        new = list(rows)
        self.rows += new
        if self._path is not None:
            with self._path.open("a") as file:
                file.write("".join(map(_line, new)))


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"
