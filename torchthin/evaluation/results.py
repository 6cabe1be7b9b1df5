"""Results of many evaluations of one model, each on disk at once: a killed run continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from torchthin.evaluation.workers import evaluated
from torchthin.graph.clone import saved_names, state_tensors
from torchthin.graph.inputs import Inputs
from torchthin.io.json_lines import Lines

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Progress = Callable[[int, int], None]
"""(evaluations done, evaluations in all)."""


def fingerprint(model: nn.Module, batches: Iterable[Inputs], options: Mapping[str, Any]) -> str:
    """Return a digest of all that a result depends on: weights, data and how it is evaluated."""
    digest = hashlib.sha256(json.dumps(dict(options), sort_keys=True).encode())
    saved = saved_names(model)  # other tensors may be what an earlier run left on the model
    tensors = [(name, tensor) for name, tensor in state_tensors(model) if name in saved]
    for name, tensor in (*tensors, *(("", tensor) for batch in batches for tensor in batch.tensors())):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Results(Generic[Key, Value]):
    """The known results, and the file that keeps them. Without a path nothing is kept on disk.

    A key is a text, or a tuple of texts and numbers.
    """

    def __init__(
        self,
        path: str | Path | None,
        mark: str,
        *,
        encode: Callable[[Value], Any],
        decode: Callable[[Any], Value],
        role: str,
        command: str,
    ) -> None:
        """Read the file.

        Args:
            path: a JSON-lines file.
            mark: see `fingerprint`.
            encode: a result -> JSON types.
            decode: the reverse; raises ValueError, KeyError or TypeError for something else.
            role: what messages call the file.
            command: what writes it.

        Raises:
            ConfigError: the file cannot be used, or its results are of something else.
        """
        self.known: dict[Key, Value] = {}
        self.dense: Value | None = None
        self._encode, self._decode = encode, decode
        self._lines = Lines(path, mark, self._take, role=role, command=command)

    def _take(self, number: int, facts: Mapping[str, Any]) -> None:
        if number == 0:
            self.dense = self._decode(facts["dense"])
        else:
            key: Any = tuple(facts["key"]) if isinstance(facts["key"], list) else facts["key"]
            self.known[key] = self._decode(facts["result"])

    def begin(self, dense: Value) -> None:
        """Write the first line, with the dense model's result, unless the file has one.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self.dense is None:
            self.dense = dense
        self._lines.begin({"dense": self._encode(dense)})

    def add(self, key: Key, value: Value) -> None:
        """Keep one result; it is on the disk when this returns."""
        self.known[key] = value
        self._lines.add({"key": key, "result": self._encode(value)})

    def complete(
        self,
        keys: Sequence[Key],
        task: Callable[[Key], Value],
        workers: int,
        model: nn.Module,
        progress: Progress | None,
    ) -> None:
        """Evaluate the keys that are not known, in `workers` processes; see `evaluated`."""
        missing = [key for key in keys if key not in self.known]
        if progress is not None:
            progress(len(keys) - len(missing), len(keys))
        for done, (key, value) in enumerate(evaluated(task, missing, workers, model), 1):
            self.add(key, value)
            if progress is not None:
                progress(len(keys) - len(missing) + done, len(keys))
