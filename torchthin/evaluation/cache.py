"""Results of a scan on disk, line by line: a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.graph.clone import saved_names, state_tensors
from torchthin.graph.inputs import Inputs
from torchthin.io.json_lines import Lines

Key = tuple[str, int]
"""Group and number of channels masked."""


def fingerprint(model: nn.Module, batches: Iterable[Inputs], how: Mapping[str, Any]) -> str:
    """Return a digest of all that a result depends on: weights, data, and how it is judged."""
    digest = hashlib.sha256(json.dumps(dict(how), sort_keys=True).encode())
    saved = saved_names(model)
    for name, tensor in state_tensors(model):
        if name not in saved:
            continue  # a run may have left it there
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
    """The losses that are known, and the file that keeps them. Without a path nothing is kept."""

    def __init__(self, path: str | Path | None, mark: str) -> None:
        """Read what is there.

        Raises:
            ConfigError: the file cannot be used, or its results are of something else.
        """
        self.known: dict[Key, float] = {}
        self.dense: float | None = None
        self._lines = Lines(path, mark, self._take, role="cache", command="sensitivity")

    def _take(self, number: int, facts: Mapping[str, Any]) -> None:
        if number == 0:
            self.dense = float(facts["dense"])
        else:
            self.known[str(facts["group"]), int(facts["gone"])] = float(facts["loss"])

    def begin(self, dense: float) -> None:
        """Write the first line, if there is none yet.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self.dense is None:
            self.dense = dense
        self._lines.begin({"dense": dense})

    def add(self, key: Key, loss: float) -> None:
        """Keep one result; it is on the disk when this returns."""
        self.known[key] = loss
        self._lines.add({"group": key[0], "gone": key[1], "loss": loss})
