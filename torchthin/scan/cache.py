"""Results of a scan on disk, line by line: a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.errors import ConfigError
from torchthin.trace.clone import state_tensors
from torchthin.trace.inputs import Inputs

Key = tuple[str, int]
"""Group and number of channels masked."""


def fingerprint(model: nn.Module, batches: Iterable[Inputs], how: Mapping[str, Any]) -> str:
    """Return a digest of all that a result depends on: weights, data, and how it is judged."""
    digest = hashlib.sha256(json.dumps(dict(how), sort_keys=True).encode())
    for name, tensor in state_tensors(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    for batch in batches:
        for tensor in batch.tensors():
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


class Cache:
    """A file of JSON lines: first what the results are of, then one result a line. Without a path nothing is kept."""

    def __init__(self, path: str | Path | None, mark: str) -> None:
        """Read what is there.

        Raises:
            ConfigError: the file cannot be used, or its results are of something else.
        """
        self._path = None if path is None else Path(path)
        self.known: dict[Key, float] = {}
        self.dense: float | None = None
        self._mark = mark
        self._whole = 0
        if self._path is not None:
            self._read(self._path)

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise ConfigError(
                f"The cache {path} cannot be read: {error.strerror}. Name another file."
            ) from error
        # A line that a killed run has half written ends without a line break: it is written anew.
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        if content and not lines:
            lines = [] if content.startswith(b'{"mark"') else [content]
        for number, line in enumerate(lines):
            self._whole += len(line)
            self._take(path, number, line)

    def _take(self, path: Path, number: int, line: bytes) -> None:
        try:
            facts = json.loads(line)
            if number == 0:
                mark, self.dense = facts["mark"], float(facts["dense"])
            else:
                self.known[str(facts["group"]), int(facts["gone"])] = float(facts["loss"])
                return
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"The cache {path} holds something else than results of torchthin sensitivity (line {number + 1}). "
                "Name another file."
            ) from error
        if mark != self._mark:
            raise ConfigError(
                f"The cache {path} was made for other weights, data, ratios or another metric. Delete it or name another file."
            )

    def begin(self, dense: float) -> None:
        """Write the first line, if there is none yet.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self._path is None or self.dense is not None:
            return
        self.dense = dense
        self._append({"mark": self._mark, "dense": dense})

    def add(self, key: Key, loss: float) -> None:
        """Keep one result; it is on the disk when this returns."""
        self.known[key] = loss
        if self._path is not None:
            self._append({"group": key[0], "gone": key[1], "loss": loss})

    def _append(self, facts: Mapping[str, Any]) -> None:
        assert self._path is not None
        line = json.dumps(facts).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("r+b" if self._path.exists() else "w+b") as file:
                file.truncate(self._whole)
                file.seek(self._whole)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(
                f"The cache {self._path} cannot be written: {error.strerror}. Name another file."
            ) from error
        self._whole += len(line)
