"""Records a forward pass as an `OpGraph`. The only file that knows how tracing is done."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as module_hooks
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from torchthin.trace.clone import held, modules_of, state_tensors
from torchthin.trace.deferred import Deferred, writes
from torchthin.trace.hollow import NeedsNumbers, NoReading, compute
from torchthin.trace.inputs import Inputs, call
from torchthin.trace.opgraph import Op, OpGraph, Place, Ref, Source, Value
from torchthin.trace.outputs import opaque_types, output_tensors

_LIBRARY = tuple(str(folder) + os.sep for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_KEPT_DTYPES = {torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8, torch.bool}


class CountingMode(TorchDispatchMode):
    """Counts the ops that completed; ops and their order are those that `record` sees.

    With a graph's `places` (and `following` the model) it knows which op of the record each one is.
    """

    def __init__(
        self, start: int = 0, places: Mapping[Place, int] | None = None, *, hollow: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.hollow = hollow
        """Whether arithmetic is left out, see `torchthin/trace/hollow.py`."""
        self.deferred: Deferred | None = None
        """The model's tensors that have values only while an op reads them."""
        self.completed = start
        """Index of the op that runs; between ops, of the next."""
        self.recorded = True
        """Whether the op that runs is one of the record."""
        self.paths: ModulePaths | None = None
        self._start = start
        self._places = places
        self._ran = 0
        self._strange = 0
        self.copies = 0
        self._spared: dict[int, Tensor] = {}
        self._saved: list[tuple[Tensor, Tensor]] = []

    @property
    def repeats(self) -> bool:
        """Whether the run had the ops of the record, all of them and no others."""
        return not self._strange and (self._places is None or self._ran == len(self._places))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tell torch not to wrap the dispatch in a guard whose first call imports its compiler: seconds in every process."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled():  # there torch hands over composite ops whole
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        if self.deferred:
            if writes(func) and self.deferred.holds(args[0]):
                raise NeedsNumbers(f"{func} changes a weight")
            args = self.deferred.filled(args)
            kwargs = {name: self.deferred.filled(argument) for name, argument in (kwargs or {}).items()}
        if self._spared and func._schema.is_mutable:
            self._save(func, args, kwargs or {})
        if func is torch.ops.aten.detach.default:
            result = func(*args, **(kwargs or {}))
            self.passed(args[0], result)
            return result
        if func.overloadpacket is torch.ops.aten._to_copy and args[0].is_floating_point():
            result = func(*args, **(kwargs or {}))
            if result.is_floating_point():
                self.passed(args[0], result)
                return result
        if func is torch.ops.aten.clone.default:
            result = self.copy(func, args, kwargs or {})
            self.copies += 1
            return result
        self._locate()
        result = self.execute(func, args, kwargs or {})
        self.completed += self.recorded
        return result

    @contextlib.contextmanager
    def sparing(self, model: nn.Module) -> Iterator[None]:
        """Put back after the block what ops inside write into the parameters of `model`, which a copy may share."""
        self._spared = {
            storage_key(tensor): tensor
            for _, tensor in state_tensors(model)
            if isinstance(tensor, nn.Parameter)
        }
        try:
            yield
        finally:
            for parameter, before in self._saved:
                parameter.data.copy_(before)
            self._spared, self._saved = {}, []

    def _save(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = by_name(func, args, kwargs)
        for argument in func._schema.arguments:
            tensor = given.get(argument.name)
            if (
                argument.alias_info is not None
                and argument.alias_info.is_write
                and isinstance(tensor, Tensor)
            ):
                parameter = self._spared.pop(storage_key(tensor), None)
                if parameter is not None:
                    self._saved.append((parameter, parameter.detach().clone()))

    def copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a copy. It is not counted: whether ``contiguous`` and ``reshape`` copy depends on sizes."""
        return self.compute(func, args, kwargs)

    def _locate(self) -> None:
        if self._places is None or self.paths is None:
            return
        index = self._places.get(self.paths.place())
        self.recorded = index is not None
        self._ran += self.recorded
        self._strange += not self.recorded
        if index is not None:
            self.completed = self._start + index

    def passed(self, given: Tensor, result: Tensor) -> None:
        """Take note of a result that is what went in.

        Conversions between floating point types are no ops, since a float64 copy of the model has others; nor is
        ``detach``: torch adds one behind ``arange`` and its like when somebody (the recorder) holds the result.
        """

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op; subclasses may look at it or compute it differently."""
        return self.compute(func, args, kwargs)

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what one op returns."""
        return compute(func, args, kwargs) if self.hollow else func(*args, **kwargs)


class _Recorder(CountingMode):
    def __init__(self, paths: ModulePaths, names: Mapping[int, str], hollow: bool) -> None:
        super().__init__(hollow=hollow)
        self.paths: ModulePaths = paths
        self._names = names
        self._ids: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._aliases = 0
        self.values: list[Value] = []
        self._refs: list[Ref] = []
        self.ops: list[Op] = []
        self.state: dict[str, int] = {}
        self.places: dict[Place, int] = {}

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.places[self.paths.place()] = self.completed
        return self._recorded(self.completed, func, args, kwargs)

    def copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._recorded(-1 - self.copies, func, args, kwargs)

    def _recorded(self, index: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = by_name(func, args, kwargs)
        arguments = {name: self._reference(argument) for name, argument in named.items()}
        result = self.compute(func, args, kwargs)
        given = [t for argument in named.values() for t in tensors_in(argument)] if may_share(func) else []
        if torch.Tag.inplace_view in func.tags:
            self._renumber(as_outputs(result))
        made = tuple(self._output(t, given) for t in as_outputs(result))
        self.ops.append(Op(index, func, arguments, made, self.paths.source()))
        return result

    def passed(self, given: Tensor, result: Tensor) -> None:
        """Let the converted tensor be the same value."""
        self._ids[id(result)] = (weakref.ref(result), self.number(given))

    def _reference(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return self._refs[self.number(argument)]
        if isinstance(argument, (list, tuple)):
            if all(type(item) is int for item in argument):
                return list(argument)
            return [self._reference(item) for item in argument]
        return argument

    def _renumber(self, tensors: list[Tensor | None]) -> None:
        """A tensor that changed its own shape (``squeeze_``) is a new value that shares storage with what it was."""
        for tensor in tensors:
            if tensor is not None:
                alias = self.values[self.number(tensor)].alias
                del self._ids[id(tensor)]
                self.number(tensor, alias)

    def _output(self, tensor: Tensor | None, given: list[Tensor]) -> Ref | None:
        if tensor is None:
            return None
        known = self._ids.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return self._refs[known[1]]
        alias = None
        if given:
            key = storage_key(tensor)
            sharing = next((t for t in given if storage_key(t) == key), None)
            alias = None if sharing is None else self.values[self.number(sharing)].alias
        return self._refs[self.number(tensor, alias)]

    def number(self, tensor: Tensor, alias: int | None = None) -> int:
        """Return the tensor's value number; a tensor never seen before gets a new one."""
        known = self._ids.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        if alias is None:
            alias, self._aliases = self._aliases, self._aliases + 1
        number = len(self.values)
        data = tensor if tensor.dtype in _KEPT_DTYPES else None
        self.values.append(Value(tuple(tensor.shape), tensor.dtype, alias, data))
        self._refs.append(Ref(number))
        self._ids[id(tensor)] = (weakref.ref(tensor), number)
        name = self._names.get(id(tensor))
        if name is not None:
            self.state[name] = number
        return number


@dataclass(slots=True)
class _Frame:
    """One running call of a module."""

    module: str
    call: int
    ops: int = 0


class ModulePaths:
    """Knows which module is running, through hooks that do not touch the model."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in modules_of(model)}
        self._calls: Counter[str] = Counter()
        self._stack: list[_Frame] = [_Frame("", 0)]

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Follow module calls inside the block."""
        enter = module_hooks.register_module_forward_pre_hook(self._enter)
        leave = module_hooks.register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            enter.remove()
            leave.remove()
            del self._stack[1:]

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        name = self._names.get(id(module), "")
        self._calls[name] += 1
        self._stack.append(_Frame(name, self._calls[name]))

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if len(self._stack) > 1:
            self._stack.pop()

    def place(self) -> Place:
        """Return the place of the op that is called now; every call of `place` stands for one op."""
        frame = self._stack[-1]
        frame.ops += 1
        return frame.module, frame.call, frame.ops

    def source(self) -> Source:
        """The running module and the innermost line of code that is neither torch's nor ours."""
        path = self._stack[-1].module
        frame: Any = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if not _is_library(file):
                return Source(path, file, frame.f_lineno)
            frame = frame.f_back
        return Source(path, "", 0)


@cache
def _is_library(file: str) -> bool:
    return file.startswith(_LIBRARY)


@contextlib.contextmanager
def following(model: nn.Module, mode: CountingMode) -> Iterator[None]:
    """Run what stands inside the block under `mode`, which knows at each op where in `model` it is."""
    mode.paths = ModulePaths(model)
    reading: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if mode.hollow or mode.deferred:
        reading = NoReading(mode.deferred.holds if mode.deferred else None)
    with mode.paths.watch(), reading, mode:
        yield


@cache
def may_share(func: Any) -> bool:
    """Whether a result of an op may share storage with what goes in, or be it: its schema says so, or nobody knows."""
    known = func.namespace == "aten" and func.overloadpacket not in _SILENT_VIEWS
    return not known or any(result.alias_info is not None for result in func._schema.returns)


_aten = torch.ops.aten
_SILENT_VIEWS = frozenset({
    _aten._unsafe_view, _aten.unsafe_split, _aten.unsafe_split_with_sizes, _aten.unsafe_chunk, _aten.lift,
})  # fmt: skip
"""Views whose schema does not say that they are."""


def storage_key(tensor: Tensor) -> int:
    """Return a number that tensors with the same live storage share."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(argument: Any) -> Iterator[Tensor]:
    """Yield the tensors of an op argument (a tensor, or a list that may hold some)."""
    if isinstance(argument, Tensor):
        yield argument
    elif isinstance(argument, (list, tuple)):
        yield from (item for item in argument if isinstance(item, Tensor))


def as_outputs(result: Any) -> list[Tensor | None]:
    """Return an op's results as a flat list of tensors; what is no tensor is None."""
    items = result if isinstance(result, (list, tuple)) else [result]
    flat: list[Tensor | None] = []
    for item in items:
        if isinstance(item, (list, tuple)):
            flat.extend(t if isinstance(t, Tensor) else None for t in item)
        else:
            flat.append(item if isinstance(item, Tensor) else None)
    return flat


def by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an op by the names in its schema."""
    return {**dict(zip(argument_names(func), args, strict=False)), **kwargs}


@cache  # torch makes new Python objects of the schema at every look
def argument_names(func: Any) -> tuple[str, ...]:
    """Return the names of an op's arguments in the order of its schema."""
    return tuple(argument.name for argument in func._schema.arguments)


@contextlib.contextmanager
def quiet(model: nn.Module, *, spent: bool = False) -> Iterator[None]:
    """Evaluation mode, no autograd, no fused kernels that hide ops; all but numbers in buffers as before afterwards.

    `spent`: the model is a copy that nobody uses any more; what the run leaves on it stays there.
    Training mode comes first for a moment: models that cache what they compute in evaluation mode drop it there.
    """
    modules = [module for _, module in modules_of(model)]
    training = [module.training for module in modules]
    onednn = torch._C._get_mkldnn_enabled()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    generators = _generators()
    contents = [] if spent else _contents(modules)
    if any(map(own_modes, {type(module) for module in modules})):
        model.train()
        model.eval()
    else:
        _set_training(modules, [False] * len(modules))
    torch.backends.mha.set_fastpath_enabled(False)
    if any(isinstance(module, nn.RNNBase) for module in modules):
        torch._C._set_mkldnn_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _uncompiled():
            yield
    finally:
        _set_generators(generators)
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch._C._set_mkldnn_enabled(onednn)
        for now, before in contents:
            if now or before:
                now.clear()
                now.update(before)
        _set_training(modules, training)


def own_modes(kind: type[nn.Module]) -> bool:
    """Whether a class does something of its own when its mode changes."""
    return kind.train is not nn.Module.train or kind.eval is not nn.Module.eval


def _set_training(modules: Iterable[nn.Module], flags: Iterable[bool]) -> None:
    for module, flag in zip(modules, flags, strict=True):
        if module.training != flag:
            module.training = flag


def _uncompiled() -> contextlib.AbstractContextManager[object]:
    """Let parts under ``torch.compile`` run as they were written (torch 2.6 and later can be asked to)."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return contextlib.nullcontext()
    eager: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return eager


def _contents(modules: Iterable[nn.Module]) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """Return the attributes of all modules, and the dicts among them, each with a copy: a forward pass may add to them."""
    dicts = [module.__dict__ for module in modules]
    nested = [value for attributes in dicts for value in attributes.values() if isinstance(value, dict)]
    return [(now, dict(now) if now else _EMPTY) for now in (*dicts, *nested)]


_EMPTY: dict[Any, Any] = {}


def _generators() -> tuple[Any, ...]:
    """Return the state of every global random generator that a forward pass may draw from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.random.get_rng_state(), random.getstate(), np.random.get_state(), cuda  # noqa: NPY002


def _set_generators(states: tuple[Any, ...]) -> None:
    torch.random.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002
    if states[3] is not None:
        torch.cuda.set_rng_state_all(states[3])


@contextlib.contextmanager
def running(model: nn.Module, *, training: bool = False, spent: bool = False) -> Iterator[None]:
    """`quiet` (see there for `spent`), in evaluation mode, or in training mode, in which some models run auxiliary heads.

    In training mode normalisation and dropout are kept still, so that two runs compute the same.
    """
    with quiet(model, spent=spent):
        if not training:
            yield
            return
        model.train()
        for _, module in modules_of(model):
            if isinstance(module, (_NormBase, _DropoutNd, nn.RNNBase)) or _normalises_weights(module):
                module.training = False
        with _NoDropout():
            yield


def _normalises_weights(module: nn.Module) -> bool:
    """Whether a module takes a step of spectral norm's power iteration when it runs in training mode."""
    hooked = any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
    return hooked or type(module).__module__.startswith("torch.nn.utils.")


class _NoDropout(TorchFunctionMode):
    """Functions of dropout hand on what they are given."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUTS:  # input, p, training, inplace
            return func(*args[:2], **{**kwargs, "training": False, "inplace": False})
        if func is functional.scaled_dot_product_attention:  # query, key, value, attn_mask, dropout_p, ...
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs |= {"dropout_p": 0.0} if len(args) <= 4 else {}
        return func(*args, **kwargs)


_DROPOUTS = (
    functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
    functional.alpha_dropout, functional.feature_alpha_dropout,
)  # fmt: skip


def record(
    model: nn.Module, inputs: Inputs, *, training: bool = False, hollow: bool = False, spent: bool = False
) -> OpGraph:
    """Run `model` once on `inputs` and return the record.

    The forward pass runs without autograd and may change buffers of `model`: give a `clone`.
    `training`, `spent`: see `running`. `hollow`: without arithmetic.

    Raises:
        NeedsNumbers: a hollow run met code that looks at numbers.
    """
    with held(model):
        paths = ModulePaths(model)
        recorder = _Recorder(paths, {id(tensor): name for name, tensor in state_tensors(model)}, hollow)
        with running(model, training=training, spent=spent), paths.watch():
            given = [recorder.number(tensor) for tensor in inputs.tensors()]
            with NoReading() if hollow else contextlib.nullcontext(), recorder.sparing(model), recorder:
                outputs = call(model, inputs)
    made = [recorder.number(item) for item in output_tensors(outputs)]
    ops = tuple(recorder.ops)
    return OpGraph(
        ops,
        tuple(recorder.values),
        recorder.state,
        tuple(given),
        tuple(made),
        recorder.places,
        note=_unseen(made, outputs),
        hollow=hollow,
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
