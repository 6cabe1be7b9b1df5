"""What a forward pass uses the integers for that modules keep: ``x.view(b, -1, self.num_heads, 16)``, ``x[:, :self.width // 2]``.

A copy of the model runs with integers that remember where they come from (`torchthin/graph/tracked.py`). Whatever torch
function takes one as the size of an axis, or as the end of a range of an axis, is noted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from torchthin.graph.clone import modules_of
from torchthin.graph.kept_integers import exchange_integers_
from torchthin.graph.operators import VIEWS
from torchthin.graph.opgraph import Op, OpGraph, Ref, SizeUse, SizeUses, Value
from torchthin.graph.tracked import (
    Attribute,
    AxisSize,
    Computed,
    Formula,
    Tracked,
    attributes_in,
    computed,
    formula_of,
)

_SPLITS = frozenset({"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"})
_NORMS = frozenset({"layer_norm", "rms_norm"})
_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_SHAPE: Any = torch.Tensor.shape.__get__  # type: ignore[attr-defined]


class Recording(Protocol):
    """A record that is being made."""

    ops: list[Op]
    values: list[Value]

    def known(self, tensor: Tensor) -> int | None:
        """Return the number of a recorded value, None for other tensors."""
        ...


class SizeWatcher(TorchFunctionMode):
    """Lets the integers that a model keeps remember where they come from, and notes what torch functions use them for.

    The model is a disposable copy: its attributes stay changed.
    """

    def __init__(self, model: nn.Module, recording: Recording) -> None:
        super().__init__()
        self._recording = recording
        self._uses: dict[SizeUse, None] = {}
        modules = [item for item in modules_of(model) if not isinstance(item[1], torch.jit.ScriptModule)]
        exchange_integers_(modules, self._tracked)

    def found(self, factors: Mapping[int, float]) -> SizeUses:
        """Return what was noted, with the numbers that the recorder met."""
        known = {op: factor for op, factor in factors.items() if not math.isnan(factor)}
        return SizeUses(tuple(self._uses), known, complete=len(known) == len(factors))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, first = kwargs or {}, len(self._recording.ops)
        result = func(*args, **given)
        if func is Tensor.size or func == _SHAPE:
            return self._sizes(args[0], result, [*args[1:], *given.values()])
        if _has_tracked((*args, *given.values())):
            name = getattr(func, "__name__", "")
            if func is functional.multi_head_attention_forward:
                self._note_heads(args[0], args[4], self._recording.ops[first:])
            elif name in {"__getitem__", "__setitem__"}:
                self._note_ranges(args[0], args[1])
            elif name == "narrow":
                dim, start, length = _arguments(args, given, ("dim", "start", "length"))
                whole = [slice(None)] * (dim % args[0].dim())
                self._note_ranges(args[0], (*whole, slice(start, start + length)))
            elif name in _CONVOLUTIONS:
                names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
                called = {**dict(zip(names, args, strict=False)), **given}
                # one for each channel, or no size
                self._note(called.get("groups"), called["input"], 1 - called["weight"].dim())
            elif name in _SPLITS:
                self._note_parts(result, _arguments(args, given, ("split_size", "dim")))
            elif isinstance(result, Tensor):
                self._note_shape(name, args, given, result)
        return result

    def _tracked(self, place: Formula, number: int) -> int:
        return Tracked.of(number, place, self._equal) if number > 1 else number

    def _sizes(self, tensor: Tensor, result: Any, dim: Sequence[int]) -> Any:
        """Return sizes of a recorded value that remember which they are."""
        value = self._recording.known(tensor)
        if value is None:
            return result
        if isinstance(result, int):
            return self._tracked(AxisSize(value, dim[0] % tensor.dim()), result)
        return torch.Size([self._tracked(AxisSize(value, axis), size) for axis, size in enumerate(result)])

    def _equal(self, left: Formula, right: Formula) -> None:
        """Note that the code found the size of an axis to be what a module keeps: it may insist on that."""
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Attribute) and isinstance(other, AxisSize):
                self._uses[SizeUse(one, other.value, other.axis)] = None

    def _note(self, number: Any, tensor: Tensor, axis: int, start: int = 0, stop: int | None = None) -> None:
        """Note that a number says how many indices there are in a range of an axis."""
        value = self._recording.known(tensor)
        if value is None or not isinstance(number, Tracked) or not any(attributes_in(number.formula)):
            return
        if len(range(tensor.shape[axis])[start:stop]) == int(number):
            self._uses[SizeUse(number.formula, value, axis % tensor.dim(), start, stop)] = None

    def _note_parts(self, parts: Sequence[Tensor], arguments: Sequence[Any]) -> None:
        sizes, dim = arguments[0], arguments[1] or 0
        for number, part in enumerate(parts):
            self._note(sizes[number] if isinstance(sizes, (list, tuple)) else sizes, part, dim)

    def _note_shape(self, name: str, args: Sequence[Any], given: Mapping[str, Any], result: Tensor) -> None:
        first, sizes = given_sizes(name, args, given, result.dim())
        shape = result.shape[first : first + len(sizes)]
        if all(int(size) in {-1, there} for size, there in zip(sizes, shape, strict=True)):
            for axis, size in enumerate(sizes, first):
                self._note(size, result, axis)

    def _note_ranges(self, tensor: Tensor, index: Any) -> None:
        """Note the ends of the ranges that an index takes of the axes of a tensor."""
        items = list(index) if isinstance(index, tuple) else [index]
        axis = 0
        for number, item in enumerate(items):
            if item is Ellipsis:
                axis = tensor.dim() - sum(map(_axes_of, items[number + 1 :]))
            elif isinstance(item, slice):
                for end in (item.start, item.stop) if item.step in {None, 1} else ():
                    if isinstance(end, Tracked) and end < 0:
                        self._note(-end, tensor, axis, start=int(end))
                    else:
                        self._note(end, tensor, axis, stop=end if end is None else int(end))
            axis += _axes_of(item)

    def _note_heads(self, query: Tensor, heads: Any, ops: Iterable[Op]) -> None:
        """Note the number of heads, which torch multiplies with the batch: its own code is not watched."""
        length, batch = query.shape[0], query.shape[1] if query.dim() == 3 else 1
        divided = (length, batch * heads, query.shape[-1] // heads)
        for op in ops if isinstance(heads, Tracked) else ():
            if op.name in VIEWS and self._recording.values[op.results[0]].shape == divided:
                formula = computed("mul", batch, formula_of(heads))
                self._uses[SizeUse(formula, op.results[0], 1)] = None
                return


def carried_over(made: OpGraph, graph: OpGraph) -> Iterator[SizeUse]:
    """Yield the size uses of a record in the values of another one of the same ops, which may have other copies."""
    uses = made.size_uses.uses if made.size_uses is not None else ()
    for use in uses:
        value = _value_in(graph, made, use.value)
        formula = _formula_in(graph, made, use.formula)
        if value is not None and formula is not None:
            yield replace(use, formula=formula, value=value)


def _value_in(graph: OpGraph, made: OpGraph, value: int) -> int | None:
    """Return the number of a value of `made` in `graph`."""
    op = made.producer.get(value)
    if op is None:
        known = dict(zip(made.inputs, graph.inputs, strict=False))
        return known.get(value, graph.state.get(made.names.get(value, "")))
    if op.index < 0:  # a copy, which the other run may do without
        return _value_in(graph, made, op.reads[0])
    other = graph.by_index.get(op.index)
    ref = other.outputs[[*op.outputs].index(Ref(value))] if other is not None else None
    return None if ref is None else ref.value


def _formula_in(graph: OpGraph, made: OpGraph, formula: Formula) -> Formula | None:
    if isinstance(formula, AxisSize):
        value = _value_in(graph, made, formula.value)
        return None if value is None else AxisSize(value, formula.axis)
    if not isinstance(formula, Computed):
        return formula
    left, right = (_formula_in(graph, made, side) for side in (formula.left, formula.right))
    return None if left is None or right is None else replace(formula, left=left, right=right)


def given_sizes(
    name: str, args: Sequence[Any], given: Mapping[str, Any], axes: int
) -> tuple[int, Sequence[int]]:
    """Return the sizes that a torch function was given for its result, and the first axis that they are for.

    They are for all axes, for the last ones (norms), or for those into which one is divided; of other functions, none.
    """
    lists = (item for item in (*args, *given.values()) if isinstance(item, (list, tuple)))
    sizes = next((item for item in lists if all(isinstance(size, int) for size in item)), None)
    if sizes is None:
        sizes = [item for item in args if isinstance(item, int)]
    if name == "unflatten":
        return _arguments(args, given, ("dim",))[0] % args[0].dim(), sizes
    if name in _NORMS:
        return axes - len(sizes), sizes
    return (0, sizes) if len(sizes) == axes else (0, ())


def _has_tracked(items: Iterable[Any]) -> bool:
    return any(
        isinstance(item, Tracked)
        or (isinstance(item, (list, tuple)) and _has_tracked(item))
        or (isinstance(item, slice) and _has_tracked((item.start, item.stop)))
        for item in items
    )


def _arguments(args: Sequence[Any], given: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Return the arguments after the tensor; by name under the first of a function's names for them."""
    by_name = {next((own for own in names if key.startswith(own)), key): item for key, item in given.items()}
    return [args[n] if n < len(args) else by_name.get(name) for n, name in enumerate(names, 1)]


def _axes_of(item: Any) -> int:
    """Return how many axes of a tensor an item of an index takes."""
    if item is None or item is Ellipsis:
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1
