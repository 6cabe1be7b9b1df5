"""The rows that are known, in a file of JSON lines: a killed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchthin.io.json_lines import Lines
from torchthin.pruning.comparison.row import Row


class Rows:
    """Key of a candidate -> its row. Without a path nothing is kept on disk."""

    def __init__(self, path: str | Path | None, mark: str) -> None:
        """Read what is there. mark: what tells the model, the data and the way of judging from all others.

        Raises:
            ConfigError: the file cannot be used, or its rows are of something else.
        """
        self.known: dict[str, Row] = {}
        self.dense: Row | None = None
        self._lines = Lines(path, mark, self._take, role="rows file", command="compare")

    def _take(self, number: int, facts: Mapping[str, Any]) -> None:
        if number == 0:
            self.dense = Row.from_dict(facts["dense"])
        else:
            self.known[str(facts["key"])] = Row.from_dict(facts["row"])

    def begin(self, dense: Row) -> None:
        """Keep the dense model's row, if it is not there yet.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self.dense is None:
            self.dense = dense
        self._lines.begin({"dense": dense.to_dict()})

    def add(self, key: str, row: Row) -> None:
        """Keep one row; it is on the disk when this returns."""
        self.known[key] = row
        self._lines.add({"key": key, "row": row.to_dict()})
