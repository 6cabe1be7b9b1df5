"""Rows of a long run in a file of JSON lines: a run that was stopped goes on with the names that have no row yet."""

from __future__ import annotations

import json
import re
from collections import Counter
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


def table(rows: Iterable[Row]) -> str:
    """Return how many rows there are of each outcome, and why all that are not ok are not, as a page of Markdown."""
    rows = [row for row in rows if row["outcome"] != "not built"]
    counted: dict[str, Counter[str]] = {}
    for row in rows:
        counted.setdefault(", ".join(row[key] for key in ("cut", "loader") if row.get(key)), Counter())[
            row["outcome"]
        ] += 1
    lines = [
        "# Tiny models of transformers, by rule",
        "",
        f"{len({row['name'] for row in rows})} architectures.",
        "",
        "| of | outcome | number |",
        "|---|---|---|",
    ]
    lines += [
        f"| {of} | {outcome} | {n} |" for of, found in counted.items() for outcome, n in found.most_common()
    ]
    lines += ["", "| architecture | outcome | why |", "|---|---|---|"]
    bad = [row for row in rows if row["outcome"] != "ok"]
    lines += [f"| {row['name']} | {row['outcome']} | {_cell(row.get('reason', ''))} |" for row in bad]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return the first sentence of a reason, without paths of the machine."""
    first = re.split(r"\. (?=[A-Z])", text)[0]
    return re.sub(r"\S*/site-packages/", "", first).replace("|", "\\|")


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"
