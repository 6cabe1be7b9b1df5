"""Which integer attributes of modules a forward pass uses as sizes (``x.view(b, -1, self.num_heads, 16)``).

A copy of the model runs with integers that remember which attribute they are. Whatever torch function takes one as the
size of an axis is noted, and so is a comparison of one with another number. Code that computes with such a number gets a
plain integer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchthin.trace.clone import clone, held, modules_of, share
from torchthin.trace.counting import CountingMode, following
from torchthin.trace.hollow import NeedsNumbers
from torchthin.trace.inputs import Inputs, call
from torchthin.trace.opgraph import OpGraph, Place, operator_name
from torchthin.trace.quiet import quiet

_SPLITS = frozenset({"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "tensor_split"})
_MULTIPLIES = frozenset({"aten.mul", "aten.mul_"})
_DIVIDES = frozenset({"aten.div", "aten.div_"})


@dataclass(frozen=True)
class SizeUse:
    """An attribute that gives the size of an axis."""

    module: str
    attribute: str
    value: int
    """Number of the value whose axis has the size."""
    axis: int


@dataclass(frozen=True)
class Sizes:
    """What a run did with the integer attributes of modules."""

    uses: tuple[SizeUse, ...] = ()
    compared: frozenset[tuple[str, str]] = frozenset()
    """Module path and name of attributes that the code compared with other numbers."""
    factors: Mapping[int, float] = field(default_factory=dict)
    """Op index -> the number that a tensor was multiplied with (of a division its inverse)."""


class FactorMode(CountingMode):
    """Notes the numbers that tensors are multiplied and divided with."""

    def __init__(self, places: Mapping[Place, int], *, hollow: bool = False) -> None:
        super().__init__(places=places, hollow=hollow)
        self.factors: dict[int, float] = {}

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op."""
        name = operator_name(func)
        if self.recorded and name in _MULTIPLIES | _DIVIDES and len(args) == 2:
            number = args[1]
            if isinstance(number, Tensor) and number.dim() == 0 and not (number.is_meta or self.hollow):
                number = number.item()
            if isinstance(number, (int, float)) and number:
                self.factors[self.completed] = float(number) if name in _MULTIPLIES else 1.0 / number
        return self.compute(func, args, kwargs)


class _Named(int):
    """An integer attribute that remembers where it stands."""

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


class _Reader(TorchFunctionMode):
    def __init__(self, graph: OpGraph, counter: CountingMode) -> None:
        super().__init__()
        self._outputs = {op.index: op.outputs for op in graph.ops}
        self._values = graph.values
        self._counter = counter
        self.found: list[SizeUse] = []

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
        op = self._counter.completed - 1
        refs = self._outputs.get(op, ())
        ref = refs[output] if output < len(refs) else None
        if isinstance(size, _Named) and size.key is not None and ref is not None:
            shape = self._values[ref.value].shape
            if axis < len(shape) and shape[axis] == int(size):
                self.found.append(SizeUse(*size.key, ref.value, axis))


def _sizes(args: Sequence[Any], given: dict[str, Any]) -> list[Any]:
    """Return the first run of integers among the arguments that holds an attribute."""
    for argument in (*args, *given.values()):
        if isinstance(argument, (list, tuple)) and any(isinstance(item, _Named) for item in argument):
            return list(argument)
    numbers = [item for item in args if isinstance(item, int)]
    if any(isinstance(item, _Named) for item in numbers):
        return numbers
    return [item for item in given.values() if isinstance(item, _Named)]


def read_sizes(model: nn.Module, inputs: Inputs, graph: OpGraph, *, hollow: bool = False) -> Sizes:
    """Run a copy of `model` and return what it does with the integer attributes of its modules.

    Args:
        model: the model that `graph` was recorded from, left as it is.
        inputs: the inputs that it was recorded on.
        graph: its record. A run of other ops, or one that fails, says nothing about it, and gives nothing.
        hollow: run without arithmetic if the code allows it. Numbers that stand in tensors are no factors then.
    """
    copy = clone(model, share)
    compared: set[tuple[str, str]] = set()
    for path, module in modules_of(copy):
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, number in list(vars(module).items()):
            if type(number) is int and number > 1:
                vars(module)[name] = _Named.of(number, (path, name), compared)
    counter = FactorMode(graph.places, hollow=hollow)
    reader = _Reader(graph, counter)
    try:
        with held(copy), quiet(copy, spent=True), counter.sparing(copy), reader, following(copy, counter):
            call(copy, inputs)
    except NeedsNumbers:
        return read_sizes(model, inputs, graph)
    except Exception:  # code that insists on plain integers; whatever it raises, it is not seen at work
        return Sizes()
    if not counter.repeats:
        return Sizes()
    return Sizes(tuple(dict.fromkeys(reader.found)), frozenset(compared), counter.factors)
