"""A file of JSON lines that grows while a run works: a killed run continues where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchthin.config.files import parse_json, regular
from torchthin.errors import ConfigError


class Lines:
    """First a line with the mark of what the results are of, then one result a line. Without a path nothing is kept."""

    def __init__(
        self,
        path: str | Path | None,
        mark: str,
        take: Callable[[int, Mapping[str, Any]], None],
        *,
        role: str,
        command: str,
    ) -> None:
        """Read what is there.

        take: told the number and the facts of each line, the first one too; raises ValueError, KeyError or TypeError where
        they are of something else. role, command: what messages call the file, and who writes it.

        Raises:
            ConfigError: the file cannot be used, or its results are of something else.
        """
        self._path = None if path is None else Path(path)
        self._mark, self._take, self._role, self._command = mark, take, role, command
        self._complete_bytes = 0
        self.begun = False
        if self._path is not None:
            self._read(self._path)

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes() if regular(path).exists() else b""
        except OSError as error:
            raise ConfigError(
                f"The {self._role} {path} cannot be read: {error.strerror}. Name another file."
            ) from error
        # A line that a killed run has half written has no line break: it is written again.
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        if content and not lines:
            lines = [] if content.startswith(b'{"mark"') else [content]
        for number, line in enumerate(lines):
            self._complete_bytes += len(line)
            self._check(path, number, line)

    def _check(self, path: Path, number: int, line: bytes) -> None:
        try:
            facts = parse_json(line)
            mark = facts["mark"] if number == 0 else self._mark
            self._take(number, facts)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"The {self._role} {path} does not hold results of torchthin {self._command} (line {number + 1}). "
                "Name another file."
            ) from error
        if mark != self._mark:
            raise ConfigError(
                f"The {self._role} {path} was made for other weights, data, options or another metric. Delete it or name "
                "another file."
            )
        self.begun = True

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write the first line, with the mark, if there is none yet.

        Raises:
            ConfigError: the file cannot be written.
        """
        if not self.begun:
            self.begun = True
            self.add({"mark": self._mark, **facts})

    def add(self, facts: Mapping[str, Any]) -> None:
        """Write one line; it is on the disk when this returns.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self._path is None:
            return
        line = json.dumps(facts).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("r+b" if self._path.exists() else "w+b") as file:
                file.truncate(self._complete_bytes)
                file.seek(self._complete_bytes)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(
                f"The {self._role} {self._path} cannot be written: {error.strerror}. Name another file."
            ) from error
        self._complete_bytes += len(line)
