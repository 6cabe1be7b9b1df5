"""Records a forward pass as an `OpGraph`."""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.call_sites import ModuleStack
from torchthin.graph.clone import state_tensors
from torchthin.graph.deferred import Deferred, writes
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.factors import factor_of
from torchthin.graph.fake import DataDependent, ReadGuard, ReadWatch
from torchthin.graph.flops import flops_of
from torchthin.graph.inputs import Inputs, call_on_originals
from torchthin.graph.next_call import Returned, returned
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import (
    argument_names,
    as_outputs,
    is_inplace_view,
    may_share,
    storage_key,
    tensors_in,
)
from torchthin.graph.opgraph import CallSite, Op, OpGraph, Ref, Value
from torchthin.graph.outputs import opaque_types, output_tensors
from torchthin.graph.precision import AS_GIVEN, Precision
from torchthin.graph.recurrent import recurrent_states
from torchthin.graph.size_uses import SizeWatcher

_KEPT_DTYPES = {torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8, torch.bool}


class _Recorder(CountingMode):
    def __init__(
        self,
        paths: ModuleStack,
        tensors: list[tuple[str, Tensor]],
        *,
        fake: bool,
        precision: Precision,
        placeholders: Deferred | None,
    ) -> None:
        super().__init__(fake=fake)
        self.precision = precision
        self._placeholders = placeholders  # not `deferred`: the record is of the tensors that the model holds
        self.paths: ModuleStack = paths
        self._held = tensors  # while the model runs, no new tensor may get the address of one of these
        self._names = {id(tensor): name for name, tensor in tensors}
        self._ids: dict[int, tuple[weakref.ref[Tensor], Ref]] = {}
        self._aliases = 0
        self.values: list[Value] = []
        self._refs: list[Ref] = []
        self.ops: list[Op] = []
        self.state: dict[str, int] = {}
        self.call_sites: dict[CallSite, int] = {}
        self.factors: dict[int, float] = {}
        self.flops = 0

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.call_sites[self.paths.call_site()] = self.completed
        factor = factor_of(func, args, self.fake)
        if factor is not None:
            self.factors[self.completed] = factor
        result = self._recorded(self.completed, func, args, kwargs)
        self.flops += flops_of(func, args, kwargs, result)
        return result

    def copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._recorded(-1 - self.copies, func, args, kwargs)

    def _recorded(self, index: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = {
            name: self._reference(argument)
            for name, argument in zip(argument_names(func), args, strict=False)
        }
        for name, argument in kwargs.items():
            arguments[name] = self._reference(argument)
        result = self.compute(func, args, kwargs)
        given: list[Tensor] = []
        if may_share(func):
            given = [t for argument in (*args, *kwargs.values()) for t in tensors_in(argument)]
            if is_inplace_view(func):
                self._renumber(as_outputs(result))
        if isinstance(result, Tensor):
            made: tuple[Ref | None, ...] = (self._output(result, given),)
        else:
            made = tuple(self._output(t, given) for t in as_outputs(result))
        self.ops.append(Op(index, func, arguments, made, self.paths.source()))
        return result

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what one op returns, given the values of placeholders unless it only views them."""
        held = None if self.fake else self._placeholders
        if held and (writes(func) or func.namespace != "aten" or not may_share(func)):
            if writes(func) and held.holds(args[0]):
                raise DataDependent(f"{func} changes a weight")
            args = held.filled(args)
            kwargs = {name: held.filled(argument) for name, argument in kwargs.items()}
        return super().compute(func, args, kwargs)

    def passed(self, given: Tensor, result: Tensor) -> None:
        """Let the converted tensor be the same value."""
        self._ids[id(result)] = (weakref.ref(result), self._refs[self.number(given)])

    def _reference(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            known = self._ids.get(id(argument))
            if known is not None and known[0]() is argument:
                return known[1]
            return self._refs[self.number(argument)]
        if isinstance(argument, (list, tuple)):
            if all(type(item) is int for item in argument):
                return list(argument)
            return [self._reference(item) for item in argument]
        return argument

    def _renumber(self, tensors: list[Tensor | None]) -> None:
        """A tensor that changed its own shape (``squeeze_``) is a new value that shares storage with what it was."""
        for tensor in tensors:
            if tensor is not None and tuple(tensor.shape) != self.values[self.number(tensor)].shape:
                alias = self.values[self.number(tensor)].alias
                del self._ids[id(tensor)]
                self.number(tensor, alias)

    def _output(self, tensor: Tensor | None, given: list[Tensor]) -> Ref | None:
        if tensor is None:
            return None
        known = self._ids.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        alias = None
        if given:
            key = storage_key(tensor)
            sharing = next((t for t in given if storage_key(t) == key), None)
            alias = None if sharing is None else self.values[self.number(sharing)].alias
        return self._refs[self.number(tensor, alias)]

    def known(self, tensor: Tensor) -> int | None:
        """Return the tensor's value number, None for one that no op has made or read."""
        known = self._ids.get(id(tensor))
        return known[1].value if known is not None and known[0]() is tensor else None

    def number(self, tensor: Tensor, alias: int | None = None) -> int:
        """Return the tensor's value number; a tensor never seen before gets a new one."""
        known = self.known(tensor)
        if known is not None:
            return known
        if alias is None:
            alias, self._aliases = self._aliases, self._aliases + 1
        number = len(self.values)
        data = tensor if tensor.dtype in _KEPT_DTYPES else None
        self.values.append(Value(tuple(tensor.shape), tensor.dtype, alias, data))
        ref = Ref(number)
        self._refs.append(ref)
        self._ids[id(tensor)] = (weakref.ref(tensor), ref)
        name = self._names.get(id(tensor))
        if name is not None:
            self.state.setdefault(name, number)  # the shape that it has between runs is its first
        return number

    def graph(self, given: list[int], parts: Returned, outputs: Any) -> OpGraph:
        """Return what was recorded, from the values that were given to what was returned, in its parts and as it came."""
        made, states = ([self.number(t) for t in output_tensors(p)] for p in (parts.results, parts.states))
        return OpGraph(
            tuple(self.ops),
            tuple(self.values),
            self.state,
            tuple(given),
            tuple(made),
            {0: self.call_sites},
            note=_unseen(made, outputs),
            states=tuple(states),
            macs=self.flops // 2,
        )


def record(
    model: nn.Module,
    inputs: Inputs,
    *,
    training: bool = False,
    fake: bool = False,
    disposable: bool = False,
    watch: bool = False,
    precision: Precision = AS_GIVEN,
    placeholders: Deferred | None = None,
) -> OpGraph:
    """Run `model` once on `inputs` and return the record.

    The forward pass runs without autograd and may change buffers of `model`: give a `clone`.

    Args:
        model: what to run.
        inputs: on its device.
        training: record the training branch; see `evaluation_mode`.
        fake: without arithmetic.
        disposable: `model` is not used afterwards.
        watch: note what the code does with integers that modules keep, which some code refuses; `model` is disposable then.
        precision: that of `model`; inputs, and types that its code asks for, are widened to it.
        placeholders: tensors of `model` that have values only while an op reads them.

    Raises:
        DataDependent: a fake run met code that looks at numbers, or code changes a tensor that is a placeholder.
    """
    paths = ModuleStack(model)
    recorder = _Recorder(
        paths, state_tensors(model), fake=fake, precision=precision, placeholders=placeholders
    )
    inputs = precision.inputs(inputs)
    watcher = SizeWatcher(model, recorder) if watch else None
    handed: list[int] = []
    reads = ReadGuard() if fake else ReadWatch(lambda tensor: handed.append(recorder.number(tensor)))
    unread = placeholders.guard() if placeholders else contextlib.nullcontext()
    with (
        evaluation_mode(model, training_branch=training, disposable=disposable),
        paths.watch(),
        watcher or contextlib.nullcontext(),
    ):
        given = [recorder.number(tensor) for tensor in inputs.tensors()]
        with reads, unread, recorder.sparing(model, inputs), recorder:
            outputs = call_on_originals(model, inputs)
    graph = recorder.graph(given, returned(model, inputs, outputs), outputs)
    return replace(
        graph,
        fake=fake,
        precision=precision,
        recurrent=recurrent_states(model),
        size_uses=watcher.found(recorder.factors) if watcher else None,
        handed=tuple(dict.fromkeys(handed)),
    )


def _unseen(made: list[int], outputs: Any) -> str:
    """Say what of the outputs cannot be followed."""
    hidden = opaque_types(outputs)
    if made and not hidden:
        return ""
    what = ", ".join(hidden) or type(outputs).__name__
    then = "is not compared" if made else "so nothing can be proved, and nothing was pruned"
    return (
        f"The model returns {what}, in which no tensor is seen: {then}. "
        "Return tensors, alone or in lists, tuples, dicts or objects with attributes."
    )
