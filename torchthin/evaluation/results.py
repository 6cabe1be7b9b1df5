"""Results of many evaluations of one model, each on disk at once: a killed run continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
Facts = Mapping[str, Any]
Progress = Callable[[int, int], None]
"""(evaluations done, evaluations in all)."""


def fingerprint(model: nn.Module, batches: Iterable[Inputs], options: Facts) -> str:
    """Return a digest of all that a result depends on: weights, data and how it is evaluated."""
    digest = hashlib.sha256(json.dumps(dict(options), sort_keys=True).encode())
    saved = saved_names(model)
    tensors = [(name, tensor) for name, tensor in state_tensors(model) if name in saved]
    # Tensors that no state dict holds may be what an earlier run left on the model.
    for name, tensor in (*tensors, *(("", tensor) for batch in batches for tensor in batch.tensors())):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".strip().encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ResultFormat(Generic[Key, Value]):
    """How results are written as JSON types."""

    encode: Callable[[Key, Value], Facts]
    decode: Callable[[Facts], tuple[Key, Value]]
    encode_dense: Callable[[Value], Any]
    decode_dense: Callable[[Any], Value]
    role: str
    """What messages call the file."""
    command: str
    """What writes it."""


class Results(Generic[Key, Value]):
    """The known results, and the file that keeps them. Without a path nothing is kept on disk."""

    def __init__(self, path: str | Path | None, mark: str, form: ResultFormat[Key, Value]) -> None:
        """Read what is there. mark: see `fingerprint`.

        Raises:
            ConfigError: the file cannot be used, or its results are of something else.
        """
        self.known: dict[Key, Value] = {}
        self.dense: Value | None = None
        self._form = form
        self._lines = Lines(path, mark, self._take, role=form.role, command=form.command)

    def _take(self, number: int, facts: Facts) -> None:
        if number == 0:
            self.dense = self._form.decode_dense(facts["dense"])
        else:
            key, value = self._form.decode(facts)
            self.known[key] = value

    def begin(self, dense: Value) -> None:
        """Write the first line, with the dense model's value, if there is none yet.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self.dense is None:
            self.dense = dense
        self._lines.begin({"dense": self._form.encode_dense(dense)})

    def add(self, key: Key, value: Value) -> None:
        """Keep one result; it is on the disk when this returns."""
        self.known[key] = value
        self._lines.add(self._form.encode(key, value))

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
