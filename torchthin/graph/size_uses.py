"""Which integer attributes of modules a forward pass uses as sizes (``x.view(b, -1, self.num_heads, 16)``).

A copy of the model runs with integers that remember which attribute they are. Whatever torch function takes one as the
size of an axis is noted, and so is a comparison of one with another number. Code that computes with such a number gets a
plain integer. This is done while the model is recorded, or in a run of its own where the record has no numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchthin.graph.clone import clone, modules_of, share
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.fake import DataDependent
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import CountingMode, following
from torchthin.graph.operators import operator_name
from torchthin.graph.opgraph import CallSite, Op, OpGraph, SizeUse, SizeUses, Value

_SPLITS = frozenset({"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "tensor_split"})
_POWERS = {"aten.mul": 1, "aten.mul_": 1, "aten.div": -1, "aten.div_": -1}
"""Ops that multiply -> with which power of the number."""


class _NamedSize(NamedTuple):
    """An integer attribute that was handed to a torch function as the size of an axis."""

    module: str
    attribute: str
    size: int
    op: int
    """Index of the op that ran last before the function returned."""
    output: int
    """Which of its results."""
    axis: int


def factor_of(func: Any, args: Sequence[Any], fake: bool) -> float | None:
    """Return the number that an op multiplies a tensor with, if it does."""
    power = _POWERS.get(operator_name(func))
    if power is None or len(args) != 2:
        return None
    number = args[1]
    if isinstance(number, Tensor) and number.dim() == 0 and not (number.is_meta or fake):
        number = number.item()
    if not isinstance(number, (int, float)) or not number:
        return None
    return float(number) if power == 1 else 1.0 / number


class FactorMode(CountingMode):
    """Notes the numbers that tensors are multiplied and divided with."""

    def __init__(self, call_sites: Mapping[CallSite, int], *, fake: bool = False) -> None:
        super().__init__(call_sites=call_sites, fake=fake)
        self.factors: dict[int, float] = {}

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op."""
        factor = factor_of(func, args, self.fake) if self.recorded else None
        if factor is not None:
            self.factors[self.completed] = factor
        return self.compute(func, args, kwargs)


class _Named(int):
    """An integer attribute that remembers which one it is."""

    key: tuple[str, str] | None = None
    compared: set[tuple[str, str]]

    @classmethod
    def of(cls, number: int, key: tuple[str, str], compared: set[tuple[str, str]]) -> _Named:
        made = cls(number)
        made.key, made.compared = key, compared
        return made

    def __eq__(self, other: object) -> bool:
        if self.key is not None:
            self.compared.add(self.key)
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


class SizeWatcher(TorchFunctionMode):
    """Lets the integer attributes of a model remember which they are, and notes what torch functions use them for.

    The model is a disposable copy: its attributes stay changed.
    """

    def __init__(self, model: nn.Module, counter: CountingMode) -> None:
        super().__init__()
        self._counter = counter
        self._sizes: dict[_NamedSize, None] = {}
        self._compared: set[tuple[str, str]] = set()
        for path, module in modules_of(model):
            if isinstance(module, torch.jit.ScriptModule):
                continue
            attributes = vars(module)
            for name, number in attributes.items():
                if type(number) is int and number > 1:
                    attributes[name] = _Named.of(number, (path, name), self._compared)

    def found(self, ops: Iterable[Op], values: Sequence[Value], factors: Mapping[int, float]) -> SizeUses:
        """Return what was noted, in the values of a record. A size that no axis there has is dropped.

        `factors`: the numbers that the counter met.
        """
        outputs = {op.index: op.outputs for op in ops}
        uses: dict[SizeUse, None] = {}
        for named in self._sizes:
            refs = outputs.get(named.op, ())
            ref = refs[named.output] if named.output < len(refs) else None
            shape = () if ref is None else values[ref.value].shape
            if ref is not None and named.axis < len(shape) and shape[named.axis] == named.size:
                uses[SizeUse(named.module, named.attribute, ref.value, named.axis)] = None
        return SizeUses(tuple(uses), frozenset(self._compared), factors)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        sequence = _sizes(args, given)
        if sequence:
            made = [result] if isinstance(result, Tensor) else result
            if isinstance(made, (list, tuple)) and made and isinstance(made[0], Tensor):
                self._note(getattr(func, "__name__", ""), args, given, sequence, made)
        return result

    def _note(
        self,
        function: str,
        args: Sequence[Any],
        given: dict[str, Any],
        sizes: list[Any],
        made: Sequence[Tensor],
    ) -> None:
        if function in _SPLITS:
            dim = int(given.get("dim", args[2] if len(args) > 2 else 0)) % made[0].dim()
            for number, size in enumerate(sizes[: len(made)]):
                self._add(size, number, dim)
            return
        shape = tuple(made[0].shape)
        for start in range(len(shape) - len(sizes) + 1):
            if all(int(a) in (-1, b) for a, b in zip(sizes, shape[start:], strict=False)):
                for axis, size in enumerate(sizes, start):
                    self._add(size, 0, axis)
                return

    def _add(self, size: Any, output: int, axis: int) -> None:
        if isinstance(size, _Named) and size.key is not None:
            self._sizes[_NamedSize(*size.key, int(size), self._counter.completed - 1, output, axis)] = None


def _sizes(args: Sequence[Any], given: dict[str, Any]) -> list[Any]:
    """Return the first run of integers among the arguments that holds an attribute."""
    others = [argument for argument in (*args, *given.values()) if type(argument) is not Tensor]
    for argument in others:
        if isinstance(argument, (list, tuple)) and any(type(item) is _Named for item in argument):
            return list(argument)
    if not any(type(argument) is _Named for argument in others):
        return []
    numbers = [item for item in args if isinstance(item, int)]
    if any(type(item) is _Named for item in numbers):
        return numbers
    return [item for item in given.values() if type(item) is _Named]


def read_sizes(model: nn.Module, inputs: Inputs, graph: OpGraph, *, fake: bool = False) -> SizeUses:
    """Return what `model` does with the integer attributes of its modules.

    Args:
        model: the model that `graph` was recorded from, left as it is.
        inputs: the inputs that it was recorded on.
        graph: its record. Where the record does not tell, the model runs again; a run of other ops, or one that fails, says
            nothing about the model, and nothing is returned.
        fake: without arithmetic is enough. Numbers that are tensors are no factors then.
    """
    if graph.size_uses is not None and (fake or not graph.fake):
        found = graph.size_uses
        return replace(found, uses=tuple(use for use in found.uses if use.value in graph.producer))
    copy = clone(model, share)
    counter = FactorMode(graph.call_sites[0], fake=fake)
    watcher = SizeWatcher(copy, counter)
    try:
        with (
            evaluation_mode(copy, disposable=True),
            counter.sparing(copy),
            watcher,
            following(copy, counter),
        ):
            call(copy, inputs)
    except DataDependent:
        return read_sizes(model, inputs, graph)
    except Exception:  # code that insists on plain integers; whatever it raises, it is not seen at work
        return SizeUses()
    return watcher.found(graph.ops, graph.values, counter.factors) if counter.repeats else SizeUses()
