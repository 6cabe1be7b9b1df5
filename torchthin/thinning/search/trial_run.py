"""A run of the thinned model that sees where its code gives an axis another size than what is left of it.

A size that is written as a number in the code (``x.view(-1, 400)``, ``x[:, 16:]``) fixes that axis, and no other one that the op,
or one that fails later, reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchthin.graph.factors import factor_of
from torchthin.graph.flops import flops_of
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import SPLITS, VIEWS, as_outputs, by_name, operator_name, same_family
from torchthin.graph.opgraph import Op
from torchthin.graph.size_uses import given_sizes
from torchthin.thinning.survivors import Survivors

FixedAxis = tuple[int, int, int]
"""Op, value and axis."""
_RANGES = SPLITS | {"aten.slice"}
"""Ops whose numbers say where an axis is divided."""


class TrialMode(CountingMode):
    """Notes the numbers that tensors are multiplied with, and the first op whose result has another shape than it must."""

    def __init__(self, survivors: Survivors, start: int, *, fake: bool = False) -> None:
        graph = survivors.labels.graph
        super().__init__(start, graph.call_sites[start], fake=fake)
        self._survivors = survivors
        self._graph = graph
        self.factors: dict[int, float] = {}
        self.flops = 0
        self.fixed: tuple[FixedAxis, ...] = ()
        self._strayed = False
        """An op was another than recorded, so nobody knows which axes those after it have."""
        self.calls = _FailedCall()
        """To be active in the same run."""

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op."""
        factor = factor_of(func, args, self.fake) if self.recorded else None
        if factor is not None:
            self.factors[self.completed] = factor
        result = self.compute(func, args, kwargs)
        self.flops += flops_of(func, args, kwargs, result)
        told = not self.recorded or self.fixed or self._strayed
        op = None if told else self._graph.by_index.get(self.completed)
        if op is not None:
            made = as_outputs(result)
            self._strayed = not self._is_as_recorded(op, func, made)
            if not self._strayed:
                self._compare(op, by_name(func, args, kwargs), made)
        return result

    def _is_as_recorded(self, op: Op, func: Any, made: Sequence[Tensor | None]) -> bool:
        """Whether an op is that of the record: what the first run cached, later runs do not compute."""
        pairs = zip(op.outputs, made, strict=False)
        name = operator_name(func)
        whole = name == "aten.alias" and op.name in _RANGES  # a range that covers all that is left
        return (whole or same_family(op.name, name)) and all(
            len(self._graph.values[ref.value].shape) == tensor.dim()
            for ref, tensor in pairs
            if ref is not None and tensor is not None
        )

    def _compare(self, op: Op, arguments: Mapping[str, Any], made: Sequence[Tensor | None]) -> None:
        pairs = zip(op.outputs, made, strict=False)
        sizes = {
            (ref.value, axis): size
            for ref, tensor in pairs
            if ref is not None and tensor is not None
            for axis, size in enumerate(tensor.shape)
        }
        if op.name in _RANGES:
            wrong = len(made) != len(op.outputs) or any(n != self._left(*place) for place, n in sizes.items())
            if wrong and _numbers(arguments) == _numbers(op.arguments):
                self.fixed = self._divided(op)
        else:
            self.fixed = self._of_full_size(op, sizes)

    def axes_of_failed_call(self) -> tuple[FixedAxis, ...]:
        """Return the axes to which the call of torch that raised an exception gave their full sizes, though they are cut."""
        near = [op for op in self._graph.ops if self.completed <= op.index <= self.completed + 2]
        name, args, given = self.calls.last
        for op in near if name else ():
            if op.name in _RANGES:
                numbers = (
                    {"start": args[2], "end": args[2] + args[3]} if name == "narrow" else {"sizes": args[1]}
                )
                return self._divided(op) if _numbers(numbers) == _numbers(op.arguments) else ()
            if op.results and (op.name in VIEWS or name in {"expand", "layer_norm", "rms_norm"}):
                value = op.results[0]
                first, sizes = given_sizes(name, args, given, len(self._graph.values[value].shape))
                return self._of_full_size(op, {(value, axis): size for axis, size in enumerate(sizes, first)})
        return ()

    def _of_full_size(self, op: Op, sizes: Mapping[tuple[int, int], int]) -> tuple[FixedAxis, ...]:
        """Return the axes of an op's results that have their full size, and should have lost something."""
        return tuple(
            (op.index, value, axis)
            for (value, axis), size in sizes.items()
            if size == self._graph.values[value].shape[axis] != self._left(value, axis)
        )

    def _divided(self, op: Op) -> tuple[FixedAxis, ...]:
        """Return the axis that an op divides."""
        value = op.reads[0]
        axis = int(op.arguments.get("dim", 0)) % len(self._graph.values[value].shape)
        return () if self._survivors.along(value, axis) is None else ((op.index, value, axis),)

    def _left(self, value: int, axis: int) -> int:
        kept = self._survivors.along(value, axis)
        return self._graph.values[value].shape[axis] if kept is None else int(kept.sum())


def _numbers(arguments: Mapping[str, Any]) -> list[int]:
    """Return the numbers that say where an op divides an axis, in order."""
    given = (item for name, item in arguments.items() if name not in {"dim", "step"})
    lists = (item if isinstance(item, (list, tuple)) else [item] for item in given)
    return [int(number) for item in lists for number in item if isinstance(number, int)]


class _FailedCall(TorchFunctionMode):
    """Keeps the call of a torch function that raised an exception."""

    last: tuple[str, Sequence[Any], Mapping[str, Any]] = ("", (), {})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.last = getattr(func, "__name__", ""), args, kwargs or {}
            raise
