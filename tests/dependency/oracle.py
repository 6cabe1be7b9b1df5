"""A brute-force oracle for label rules: every recorded op is run again on what stays of its inputs.

The law: an op on inputs from which the indices of free components were taken must give the op's full result from which
the indices that the rule names were taken. Three kinds of op are allowed more, and pay for it:
- contractions may lose the share of what went, so the full run leaves that share out;
- ops marked as statistics run over what stays, so swapping two components in the inputs must swap them in the result;
- ops whose arguments repeat a size get the size of what stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchthin.dependency.components import Components, components
from torchthin.dependency.labels import FROZEN, Axis, FlattenedAxis, Vector
from torchthin.dependency.propagate import Labels, propagate
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call_on_originals
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import as_outputs, by_name, invoke
from torchthin.graph.opgraph import Op, OpGraph, Ref
from torchthin.graph.recorder import record
from torchthin.thinning.proof.reference import Departures, Reference, ReferenceMode
from torchthin.thinning.survivors import Survivors

OUTPUT = "part of the model's output"
UNSET = {
    "aten.empty", "aten.new_empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty_strided",
    "aten.empty_permuted", "aten.rand", "aten.randn", "aten.randint", "aten.rand_like", "aten.randn_like",
    "aten.randint_like", "aten.bernoulli", "aten.bernoulli_", "aten.uniform_", "aten.normal_", "aten.exponential_",
    "aten.multinomial", "aten.normal", "aten.random_",
}  # fmt: skip
"""Their numbers mean nothing, or are drawn at random."""


@dataclass(frozen=True)
class Wrong:
    """An op for which a rule's claim does not hold."""

    op: Op
    problem: str

    def __str__(self) -> str:
        return f"{self.op.name} {self.op.arguments}: {self.problem}"


def _sizes(op: Op, kept: Survivors, position: int = 0) -> list[int]:
    ref = op.outputs[position]
    assert ref is not None
    shape = list(kept.labels.graph.values[ref.value].shape)
    for axis, keep in kept.cut_axes(ref.value).items():
        shape[axis] = int(keep.sum())
    return shape


def _size(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    if "size" in given:
        given["size"] = _sizes(op, kept)


def _square(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    given["n"] = _sizes(op, kept)[0]
    if "m" in given:
        given["m"] = _sizes(op, kept)[1]


def _slice(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    ref = op.arguments["self"]
    shape = kept.labels.graph.values[ref.value].shape
    dim = given.get("dim", 0) % len(shape)
    keep = kept.along(ref.value, dim)
    if keep is None:
        return
    start, stop, step = slice(given.get("start"), given.get("end"), given.get("step", 1)).indices(shape[dim])
    if step > 1:
        given["end"] = int(keep.sum())
        return
    given["start"], given["end"] = int(keep[:start].sum()), int(keep[:stop].sum())


def _split(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    data = op.arguments["self"]
    dim = given.get("dim", 0) % len(kept.labels.graph.values[data.value].shape)
    sizes = [_sizes(op, kept, position)[dim] for position in range(len(op.outputs))]
    if "split_sizes" in given:
        given["split_sizes"] = sizes
    elif "split_size" in given and kept.along(data.value, dim) is not None:
        given["split_size"] = sizes[0]


def _layer_norm(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    given["normalized_shape"] = list(given["input"].shape[-len(given["normalized_shape"]) :])


def _group_norm(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    shape = given["input"].shape
    if given["group"] == given["C"]:  # one channel each
        given["group"] = shape[1]
    given["N"], given["C"], given["HxW"] = shape[0], shape[1], int(np.prod(shape[2:]))


def _conv_groups(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    before = kept.labels.graph.values[op.arguments["weight"].value].shape
    groups, transposed = given["groups"], given.get("transposed", False)
    if groups > 1 and before[0 if transposed else 1] == (groups if transposed else 1):
        given["groups"] = given["input"].shape[1]


def _restride(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    given["size"], given["stride"] = list(given["self"].shape), list(given["self"].stride())


def _strided(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    given["size"] = _sizes(op, kept)
    given["stride"] = list(torch.empty(given["size"], device="meta").stride())


def _alias(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    given["size"] = _sizes(op, kept)
    given["stride"] = list(torch.empty(given["size"], device="meta").stride())


def _aligned(op: Op, kept: Survivors, given: dict[str, Any]) -> None:
    """Lay rows out at whole 16 bytes, the only layout that the kernel takes."""
    for name in ("self", "mat2"):
        data = given[name]
        whole = -(-data.shape[-1] // 4) * 4
        given[name] = torch.nn.functional.pad(data, (0, whole - data.shape[-1]))[..., : data.shape[-1]]


Adapt = Callable[[Op, Survivors, dict[str, Any]], None]
ADAPT: dict[str, Adapt] = {
    **dict.fromkeys(["aten.view", "aten._unsafe_view", "aten.resize_"], _size),
    **dict.fromkeys(
        ["aten.expand", "aten.zeros", "aten.ones", "aten.full", "aten.empty", "aten.new_zeros", "aten.new_ones",
         "aten.new_empty", "aten.new_full", "aten.empty_permuted", "aten.rand", "aten.randn", "aten.randint"],
        _size,
    ),
    **dict.fromkeys(["aten.empty_strided", "aten.new_empty_strided"], _strided),
    "aten._reshape_alias": _alias,
    **dict.fromkeys(["aten.as_strided", "aten.as_strided_"], _restride),
    "aten.eye": _square,
    **dict.fromkeys(["aten.slice", "aten.slice_scatter"], _slice),
    **dict.fromkeys(
        ["aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.unsafe_split_with_sizes"], _split
    ),
    **dict.fromkeys(["aten.native_layer_norm", "aten._fused_rms_norm"], _layer_norm),
    "aten.native_group_norm": _group_norm,
    **dict.fromkeys(["aten.convolution", "aten._convolution"], _conv_groups),
    "aten._grouped_mm": _aligned,
}  # fmt: skip
"""Arguments that repeat a size get the size of what stays."""


def consumed(graph: OpGraph) -> set[int]:
    """Return the values that some op, or the caller, takes."""
    return {value for op in graph.ops for value in op.reads} | set(graph.outputs)


def everything_left_out(labels: Labels, kept: Survivors) -> Departures:
    """Removed channels may hold anything here, so every op that sums or measures runs without them."""
    ops = labels.graph.by_index
    partial = {
        n for n, item in labels.contractions.items() if kept.along(item.data, item.data_axis) is not None
    }
    left_out = {n: ops[n] for n in labels.statistics if kept.cut_any(ops[n].reads)}
    return Departures(partial=partial, left_out=left_out)


class LawMode(ReferenceMode):
    """Runs a module at full size and, op by op, checks the law on what stays."""

    def __init__(self, labels: Labels, kept: Survivors) -> None:
        super().__init__(Reference(kept, everything_left_out(labels, kept)))
        self.wrong: list[Wrong] = []
        self._consumed = consumed(labels.graph)

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        op = self._ops.get(self.completed)
        if op is None:
            return func(*args, **kwargs)
        assert op.target is func
        try:
            given = by_name(func, args, kwargs)
            before = {name: self._selected(op.arguments.get(name), value) for name, value in given.items()}
            result = self._executed(func, args, kwargs)  # samples are not needed
            if any(self._survivors.cut_axes(value) for value in (*op.reads, *op.results)):
                self.wrong.extend(Wrong(op, problem) for problem in self._compare(op, before, result))
        except (RuntimeError, IndexError) as error:
            self.wrong.append(Wrong(op, f"the labels do not fit: {type(error).__name__}: {error}"))
            return func(*args, **kwargs)
        return result

    def copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        op = self._ops.get(-1 - self.copies)
        if op is not None:
            given = by_name(func, args, kwargs)
            before = {name: self._selected(op.arguments.get(name), value) for name, value in given.items()}
            problems = self._compare(op, before, func(*args, **kwargs))
            self.wrong.extend(Wrong(op, problem) for problem in problems)
        return func(*args, **kwargs)

    def _selected(self, argument: Any, value: Any) -> Any:
        if isinstance(value, Tensor) and isinstance(argument, Ref):
            return self._survivors.select(argument.value, value).clone()
        if isinstance(value, (list, tuple)) and isinstance(argument, list):
            made = [self._selected(a, v) for a, v in zip(argument, value, strict=True)]
            return made if isinstance(value, list) else tuple(made)
        return value

    def _compare(self, op: Op, given: dict[str, Any], result: Any) -> Iterator[str]:
        adapt = ADAPT.get(op.name)
        try:
            if adapt is not None:
                adapt(op, self._survivors, given)
            small = as_outputs(invoke(op.target, given))
        except Exception as error:
            yield f"does not run on what stays: {type(error).__name__}: {str(error).splitlines()[0]}"
            return
        full = as_outputs(result)
        if len(small) != len(full):
            yield f"{len(small)} results, not {len(full)}"
            return
        for ref, a, b in zip(op.outputs, full, small, strict=True):
            if ref is None or a is None or b is None:
                continue
            if ref.value in self._consumed:
                yield from _differs(self._survivors.select(ref.value, a), b, op.name in UNSET)


def _differs(expected: Tensor, actual: Tensor, unset: bool = False) -> Iterator[str]:
    if expected.shape != actual.shape:
        yield f"claims shape {tuple(expected.shape)}, is {tuple(actual.shape)}"
    elif unset:
        return
    elif expected.dtype in (torch.int64, torch.bool):
        if not torch.equal(expected, actual):
            yield "differs"
    elif not torch.allclose(expected, actual, rtol=1e-9, atol=1e-9, equal_nan=True):
        yield f"differs by {(expected.double() - actual.double()).abs().max():.2g}"


class SwapMode(CountingMode):
    """Swaps two components in the inputs of every op that is marked as statistics; its result must swap alike."""

    def __init__(self, labels: Labels, comps: Components, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self._labels = labels
        self._comps = comps
        self._pairs = pairs
        self._consumed = consumed(labels.graph)
        self._ops = {op.index: op for op in labels.graph.ops}
        self.wrong: list[Wrong] = []

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        op = self._ops.get(self.completed)
        if op is None or op.index not in self._labels.statistics:
            return func(*args, **kwargs)
        given = by_name(func, args, kwargs)
        each = [
            {
                name: self._swap(op.arguments[name], value, pair).clone()
                if isinstance(value, Tensor)
                else value
                for name, value in given.items()
            }
            for pair in self._pairs
        ]
        result = func(*args, **kwargs)
        for pair, swapped in zip(self._pairs, each, strict=True):
            made = as_outputs(invoke(func, swapped))
            for ref, a, b in zip(op.outputs, as_outputs(result), made, strict=True):
                if ref is not None and ref.value in self._consumed and a is not None and b is not None:
                    self.wrong.extend(
                        Wrong(op, f"swapped: {p}") for p in _differs(self._swap(ref, a, pair), b)
                    )
        return result

    def _swap(self, ref: Ref, tensor: Tensor, pair: tuple[int, int]) -> Tensor:
        for axis, vector in enumerate(self._labels.values.get(ref.value, ())):
            if isinstance(vector, np.ndarray):
                comps = np.where(vector == FROZEN, -1, self._comps.of_label[vector])
                first, second = (np.flatnonzero(comps == c) for c in pair)
                order = np.arange(comps.size)
                if first.size == second.size:
                    order[first], order[second] = second, first
                tensor = tensor.index_select(axis, torch.from_numpy(order))
        return tensor


@dataclass(frozen=True)
class Finding:
    """What the oracle found about one module."""

    graph: OpGraph
    wrong: list[Wrong]
    free: int
    """Components that may go, summed over the candidates that were tried."""
    unknown: list[str]


def check(model: nn.Module, inputs: Inputs, *, thorough: bool = True) -> Finding:
    """Check every op that `model` runs, for every way that its labels may be divided.

    Args:
        model: what calls the op.
        inputs: its inputs.
        thorough: take every index of an axis away for itself; else one of every axis, and several at once.
    """
    graph = record(model, inputs).live()
    wrong: list[Wrong] = []
    free = 0
    unknown: list[str] = []
    for choice in range(4):
        labels = propagate(graph, {op.index: choice for op in graph.ops})
        unknown = [op.name for op in labels.unknown]
        labels.space.freezes[:] = [f for f in labels.space.freezes if f[1].text != OUTPUT]
        comps = components(labels.space)
        used = _used(labels, comps)
        free += used.size
        modes: list[LawMode | SwapMode] = [
            LawMode(labels, Survivors(labels, comps, gone))
            for gone in removals(labels, comps, used, thorough)
        ]
        pairs = list(_pairs(labels, comps, used, 12 if thorough else 4))
        modes += [SwapMode(labels, comps, pairs)] if pairs else []
        with evaluation_mode(model):
            for mode in modes:
                with mode:
                    call_on_originals(model, inputs)
                wrong += mode.wrong
        if all(site.chosen == len(site.candidates) - 1 for site in labels.split_choices):
            break
    return Finding(graph, wrong, free, unknown)


def _used(labels: Labels, comps: Components) -> np.ndarray[Any, np.dtype[np.int64]]:
    vectors = [v for axes in labels.state.values() for v in axes if isinstance(v, np.ndarray)]
    found = np.unique(comps.of_label[np.concatenate(vectors)]) if vectors else np.zeros(0, np.int64)
    return found[comps.free()[found]]


def removals(
    labels: Labels, comps: Components, used: Any, thorough: bool
) -> Iterator[np.ndarray[Any, np.dtype[np.bool_]]]:
    """Yield what goes: one component at a time (with what balances ask for), then several at once."""
    random = np.random.default_rng(0)
    if thorough:
        starts = used if used.size <= 12 else random.choice(used, 12, replace=False)
    else:
        starts = _of_every_axis(labels, comps, used)
    sets = [[c] for c in starts]
    if used.size > 3:
        sets += [list(random.choice(used, max(2, used.size // 3), replace=False)) for _ in range(3)]
    for chosen in sets:
        gone = np.zeros(comps.reason.size, np.bool_)
        gone[chosen] = True
        if _balance(labels, comps, gone) and not _empties(labels, comps, gone):
            yield gone


def _of_every_axis(labels: Labels, comps: Components, used: Any) -> list[int]:
    """Return the last component of every axis of the state."""
    axes = [comps.of_label[v] for axes in labels.state.values() for v in axes if isinstance(v, np.ndarray)]
    met = [vector[np.isin(vector, used)] for vector in axes]
    return list(dict.fromkeys(int(found[-1]) for found in met if found.size))


def _empties(labels: Labels, comps: Components, gone: Any) -> bool:
    """Whether less than two indices of some axis would stay: an axis of size 1 means something else to many ops."""
    axes = [v for axes in labels.values.values() for axis in axes for v in _vectors(axis)]
    return any((~gone[comps.of_label[v]] | (v == FROZEN)).sum() < 2 for v in axes)


def _vectors(axis: Axis) -> tuple[Vector, ...]:
    return axis.parts if isinstance(axis, FlattenedAxis) else () if axis is None else (axis,)


def _balance(labels: Labels, comps: Components, gone: Any) -> bool:
    """Let more go until every row of every balance loses the same number; False when that cannot be."""
    for _ in range(20):
        changed = False
        for balance in labels.space.balances:
            rows = comps.of_label[balance]
            lost = gone[rows].sum(1)
            if (lost == lost.max()).all():
                continue
            changed = True
            for row, count in zip(rows, lost, strict=True):
                spare = [c for c in dict.fromkeys(row.tolist()) if not gone[c] and comps.reason[c] < 0]
                gone[spare[: int(lost.max() - count)]] = True
        if not changed:
            return True
    return False


def _pairs(labels: Labels, comps: Components, used: Any, limit: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of components that stand in the same rows of all balances and on the same axes."""
    if not labels.statistics:
        return
    axes = [v for axes in labels.values.values() for v in axes if isinstance(v, np.ndarray)]
    rows = [*axes, *(row for balance in labels.space.balances for row in balance)]
    counts = np.stack([np.bincount(comps.of_label[row], minlength=comps.reason.size) for row in rows], 1)
    found = 0
    for i, a in enumerate(used):
        for b in used[i + 1 :]:
            if found < limit and (counts[a] == counts[b]).all():
                found += 1
                yield int(a), int(b)


class OpModule(nn.Module):
    """Calls a function on tensors of its own, so that all their axes carry labels."""

    def __init__(
        self, function: Callable[..., Any], tensors: Sequence[Tensor], change: Change | None = None
    ) -> None:
        super().__init__()
        self.function = function
        self.change = change or Change()
        self.names = [f"t{i}" for i in range(len(tensors))]
        for number, (name, tensor) in enumerate(zip(self.names, tensors, strict=True)):
            held = self.change.held(number, tensor.clone())
            if held.is_floating_point():
                setattr(self, name, nn.Parameter(held, requires_grad=False))
            else:
                self.register_buffer(name, held)

    def forward(self, given: Tensor) -> Any:
        tensors = [
            self.change.made(number, getattr(self, name), given) for number, name in enumerate(self.names)
        ]
        return self.function(*tensors)


@dataclass(frozen=True)
class Change:
    """How one argument differs from a parameter of its own: it is the model's input, or one of its axes is fixed."""

    argument: int = -1
    axis: int | None = None
    merged: bool = False

    def held(self, number: int, tensor: Tensor) -> Tensor:
        if number != self.argument:
            return tensor
        if self.merged:
            assert self.axis is not None
            return tensor.unflatten(self.axis, (2, -1)).contiguous()
        return tensor if self.axis is None else tensor.narrow(self.axis, 0, 1).clone()

    def made(self, number: int, tensor: Tensor, given: Tensor) -> Tensor:
        if number != self.argument:
            return tensor
        if self.merged:
            assert self.axis is not None
            return tensor.flatten(self.axis, self.axis + 1)
        return given if self.axis is None else tensor * given

    def given(self, tensors: Sequence[Tensor]) -> Tensor:
        if self.argument < 0 or self.merged:
            return torch.zeros(2)
        tensor = tensors[self.argument]
        if self.axis is None:
            return tensor.clone()
        shape = [1] * tensor.dim()
        shape[self.axis] = tensor.shape[self.axis]
        generator = torch.Generator().manual_seed(1)
        return torch.rand(shape, generator=generator, dtype=tensor.dtype) + 0.5


def changes(tensors: Sequence[Tensor]) -> Iterator[Change]:
    """Yield the ways in which arguments may come: all as parameters, one as input, one with an axis fixed or merged."""
    yield Change()
    for number, tensor in enumerate(tensors):
        yield Change(number)
        if tensor.is_floating_point():
            for axis, size in enumerate(tensor.shape):
                if size > 1 and tensor.dim() > 1:
                    yield Change(number, axis)
                if size > 2 and size % 2 == 0:
                    yield Change(number, axis, merged=True)
