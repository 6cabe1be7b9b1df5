"""Sees every ATen op of a run, and knows which op of a record each one is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchthin.graph.call_sites import ModuleStack
from torchthin.graph.clone import state_tensors
from torchthin.graph.deferred import Deferred, writes
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.fake import DataDependent, KnownNumbers, ReadGuard
from torchthin.graph.inputs import Inputs, call_on_originals
from torchthin.graph.operators import (
    UNWRITTEN,
    by_name,
    is_composite,
    operator_name,
    storage_key,
    written_arguments,
)
from torchthin.graph.opgraph import BRANCH, CallSite
from torchthin.graph.plain_forms import PLAIN_FORMS
from torchthin.graph.precision import Precision

_DETACH, _TO_COPY, _CLONE = (
    torch.ops.aten.detach.default,
    torch.ops.aten._to_copy,
    torch.ops.aten.clone.default,
)


class CountingMode(TorchDispatchMode):
    """Counts the ops that completed; ops and their order are those that `record` sees.

    With a graph's `call_sites` (and `following` the model) it knows which op of the record each one is.
    """

    def __init__(
        self, start: int = 0, call_sites: Mapping[CallSite, int] | None = None, *, fake: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fake = fake
        """Whether arithmetic is left out, see `torchthin/graph/fake.py`."""
        self._numbers = KnownNumbers()
        self.deferred: Deferred | None = None
        """The model's tensors that have values only while an op reads them."""
        self.precision: Precision | None = None
        """What the run computes in; types that code asks for are widened to it. None: as the code says."""
        self.completed = start
        """Index of the op that runs; between ops, of the next."""
        self.recorded = True
        """Whether the op that runs is one of the record."""
        self.paths: ModuleStack | None = None
        self._start = start
        self._call_sites = call_sites
        self._ran = 0
        self._strange = 0
        self.copies = 0
        self._spared: dict[int, Tensor] = {}
        self._saved: list[tuple[Tensor, Tensor]] = []

    @property
    def repeats(self) -> bool:
        """Whether the run had the ops of the record, all of them and no others."""
        return not self._strange and (self._call_sites is None or self._ran == len(self._call_sites))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tell torch not to wrap the dispatch in a guard whose first call imports its compiler: seconds in every process."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled() and is_composite(func):  # there torch hands them over whole
            with self:
                return func.decompose(*args, **(kwargs or {}))
        if func in PLAIN_FORMS:
            with self:
                plain = PLAIN_FORMS[func](*args, **(kwargs or {}))
            if plain is not None:
                return plain
        if self.deferred:
            if writes(func) and self.deferred.holds(args[0]):
                raise DataDependent(f"{func} changes a weight")
            args = self.deferred.filled(args)
            kwargs = {name: self.deferred.filled(argument) for name, argument in (kwargs or {}).items()}
        if self.precision is not None and kwargs:
            kwargs = self.precision.arguments(kwargs)
        if self._spared and func._schema.is_mutable:
            self._save(func, args, kwargs or {})
        if func is _DETACH:
            result = self._computed(func, args, kwargs or {})
            self.passed(args[0], result)
            return result
        if func.overloadpacket is _TO_COPY and args[0].is_floating_point():
            result = self.compute(func, args, kwargs or {})
            if result.is_floating_point():
                self.passed(args[0], result)
                return result
        if func is _CLONE:
            result = self.copy(func, args, kwargs or {})
            self.copies += 1
            return result
        self._locate()
        result = self.execute(func, args, kwargs or {})
        self.completed += self.recorded
        return result

    @contextlib.contextmanager
    def sparing(self, model: nn.Module, inputs: Inputs) -> Iterator[None]:
        """Put back after the block what ops inside write into tensors of `model`, which a copy may share, and into its inputs.

        Runs repeat, and all must see the same.
        """
        given = (
            tensor for tensor in inputs.tensors() if tensor.layout == torch.strided
        )  # others have no storage
        tensors = (*(tensor for _, tensor in state_tensors(model)), *given)
        self._spared = {storage_key(tensor): tensor for tensor in tensors}
        try:
            yield
        finally:
            for tensor, before in self._saved:
                if tensor.shape == before.shape:
                    tensor.data.copy_(before)
                else:  # of an observer that had seen nothing
                    tensor.data = before
            self._spared, self._saved = {}, []

    def _save(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = by_name(func, args, kwargs)
        for name in written_arguments(func):
            tensor = given.get(name)
            spared = self._spared.pop(storage_key(tensor), None) if isinstance(tensor, Tensor) else None
            if spared is not None:
                self._saved.append((spared, spared.detach().clone()))

    def copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a copy. It is not counted: whether ``contiguous`` and ``reshape`` copy depends on sizes."""
        return self.compute(func, args, kwargs)

    def _locate(self) -> None:
        if self._call_sites is None or self.paths is None:
            return
        index = self._call_sites.get(self.paths.call_site())
        self.recorded = index is not None
        self._ran += self.recorded
        self._strange += not self.recorded
        if index is not None:
            self.completed = self._start + index

    def passed(self, given: Tensor, result: Tensor) -> None:
        """Take note of a result that is what went in.

        Conversions between floating point types are no ops, since a float64 copy of the model has others; nor is
        ``detach``: torch adds one after ``arange`` and its like when something (the recorder) holds the result.
        """

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op; subclasses may look at it or compute it differently."""
        return self.compute(func, args, kwargs)

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what one op returns; memory that code has yet to write holds zeros, so that every run computes the same."""
        result = self._computed(func, args, kwargs)
        return result.zero_() if operator_name(func) in UNWRITTEN else result

    def _computed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._numbers.compute(func, args, kwargs) if self.fake else func(*args, **kwargs)


@contextlib.contextmanager
def following(model: nn.Module, mode: CountingMode) -> Iterator[None]:
    """Run the block under `mode`, which knows at each op where in `model` it is."""
    mode.paths = ModuleStack(model)
    reading = (
        mode.deferred.guard() if mode.deferred else ReadGuard() if mode.fake else contextlib.nullcontext()
    )
    with mode.paths.watch(), reading, mode:
        yield


def run(model: nn.Module, inputs: Inputs, mode: CountingMode, *, disposable: bool = False) -> Any:
    """Call a model under `mode`; in training mode if its ops count from `BRANCH`. `disposable`: it is not run again."""
    training = mode.completed >= BRANCH
    with (
        evaluation_mode(model, training_branch=training, disposable=disposable),
        mode.sparing(model, inputs),
        following(model, mode),
    ):
        return call_on_originals(model, inputs)
