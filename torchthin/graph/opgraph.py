"""The record of one forward pass: every ATen op, what went in, what came out, and where in the model it was called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from torchthin.graph.operators import operator_name, written_arguments


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor argument or result: the number of a `Value`."""

    value: int


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor that existed during the forward pass."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    alias: int
    """Values with equal alias numbers share storage."""
    data: torch.Tensor | None = None
    """The tensor itself where its numbers matter to a rule (integer and boolean tensors); else None."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an op was called: the path of the innermost module and the user's line."""

    module: str
    file: str
    line: int

    def __str__(self) -> str:
        where = self.module or "the model"
        return f"{where} ({self.file}:{self.line})" if self.file else where


@dataclass(frozen=True, slots=True)
class Op:
    """One call of an ATen operator."""

    index: int
    """Number among the ops of the run; copies, which another run may do without, count down from -1."""
    target: torch._ops.OpOverload
    arguments: dict[str, Any]
    """By the schema's names, defaults left out; tensors as `Ref`, lists of tensors as lists of `Ref` or None."""
    outputs: tuple[Ref | None, ...]
    source: Source
    reads: tuple[int, ...] = field(init=False, repr=False)
    """Value numbers of all tensor arguments, in schema order; asked for again and again."""

    def __post_init__(self) -> None:
        found: list[int] = []
        for argument in self.arguments.values():
            if type(argument) is Ref:
                found.append(argument.value)
            elif type(argument) is list or type(argument) is tuple:
                found += [item.value for item in argument if type(item) is Ref]
        object.__setattr__(self, "reads", tuple(found))

    @property
    def name(self) -> str:
        """Operator name without overload, for instance ``aten.convolution``."""
        return operator_name(self.target)

    @property
    def trained(self) -> bool:
        """Whether the op is part of the second run, of the training branch."""
        return abs(self.index) >= BRANCH

    def inputs(self) -> Iterator[Ref]:
        """All tensor arguments, in schema order."""
        for argument in self.arguments.values():
            if isinstance(argument, Ref):
                yield argument
            elif isinstance(argument, (list, tuple)):
                yield from (item for item in argument if isinstance(item, Ref))

    def written(self) -> Iterator[Ref]:
        """Tensor arguments that the op changes in place."""
        for name in written_arguments(self.target):
            argument = self.arguments.get(name)
            if isinstance(argument, Ref):
                yield argument


CallSite = tuple[str, int, int]
"""Path of the innermost module, number of its call, number of the op among those of this call's own code.

Code that loops as often as the data ask (over detected boxes) shifts the ops behind it in its own call only.
"""


class NamedSize(NamedTuple):
    """An integer attribute that was handed to a torch function as the size of an axis."""

    module: str
    attribute: str
    size: int
    op: int
    """Index of the op that ran last before the function returned."""
    output: int
    """Which of its results."""
    axis: int


@dataclass(frozen=True)
class Watched:
    """What a run did with the integer attributes of modules."""

    sizes: tuple[NamedSize, ...] = ()
    compared: frozenset[tuple[str, str]] = frozenset()
    """Module path and name of attributes that the code compared with other numbers."""
    factors: Mapping[int, float] = field(default_factory=dict)
    """Op index -> the number that a tensor was multiplied with (of a division its inverse)."""


@dataclass(frozen=True)
class OpGraph:
    """A recorded forward pass."""

    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    state: dict[str, int] = field(repr=False)
    """Value number of every parameter and buffer that some op read, by its first name in the model."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    call_sites: Mapping[CallSite, int] = field(default_factory=dict, repr=False)
    """Where in the model every op of the first run was called -> its index, dead ops included."""
    branch_call_sites: Mapping[CallSite, int] = field(default_factory=dict, repr=False)
    """The same of the second run, counted from 0."""
    note: str = ""
    """What could not be recorded, in words."""
    idle: frozenset[str] = frozenset()
    """Parameters and buffers whose results reach no output."""
    fake: bool = False
    """Recorded without arithmetic: if code looks at numbers unseen, a run with numbers has other ops."""
    watched: Watched | None = None
    """What the first run did with integer attributes; None where nobody looked."""

    @property
    def branched(self) -> bool:
        """Whether a second run, of the training branch, is part of the graph."""
        return any(op.trained for op in self.ops)

    def calls(self, start: int) -> Mapping[CallSite, int]:
        """Return the call sites of the run whose ops count from `start`: 0 or `BRANCH`."""
        return self.branch_call_sites if start else self.call_sites

    def chance(self) -> Op | None:
        """Return the first op of the second run that draws random numbers: two such runs cannot be compared."""
        return next(
            (op for op in self.ops if op.trained and torch.Tag.nondeterministic_seeded in op.target.tags),
            None,
        )

    def live(self) -> OpGraph:
        """Return the graph without ops that reach no output (ai8x computes unused statistics) and what only they read."""
        return self._reaching(self.outputs)

    def running(self, live: OpGraph) -> OpGraph:
        """Return the graph with the layers that reach no output (a head whose result is dropped): they must go on to fit.

        `live`: the part that reaches one. Parameters of the others are `idle`. Without any output nothing is added.
        """
        known: set[int] = set(self.inputs)
        made: list[int] = []
        names = set(self.state.values()) - set(live.state.values())
        if not names:
            return live
        for op in self.ops:
            used = set(op.reads)
            if used & known:
                results = [ref.value for ref in op.outputs if ref is not None]
                known.update(results)
                made += results if used & names else []
        if not made or not live.ops:
            return live
        whole = self._reaching((*self.outputs, *made))
        return replace(whole, idle=frozenset(whole.state.keys() - live.state.keys()))

    def _reaching(self, ends: Iterable[int]) -> OpGraph:
        wanted = set(ends)
        aliases = {self.values[v].alias for v in wanted}
        kept: list[Op] = []
        for op in reversed(self.ops):
            made = {ref.value for ref in op.outputs if ref is not None}
            changed = {self.values[ref.value].alias for ref in op.written()}
            if made & wanted or changed & aliases:
                kept.append(op)
                wanted.update(op.reads)
                aliases.update(self.values[number].alias for number in op.reads)
        kept.reverse()
        read = {number for op in kept for number in op.reads} | set(self.outputs)
        state = {name: number for name, number in self.state.items() if number in read}
        return replace(self, ops=tuple(kept), state=state)


BRANCH = 10_000_000
"""Op indices of a second recorded run start here."""


def merged(first: OpGraph, second: OpGraph) -> OpGraph:
    """Return one graph of two runs of the same model (evaluation and training); parameters are shared.

    The second run's ops get indices from `BRANCH` on.
    """
    offset = len(first.values)
    shared = {number: first.state[name] for name, number in second.state.items() if name in first.state}
    aliases = 1 + max((value.alias for value in first.values), default=0)

    def moved(item: Any) -> Any:
        if isinstance(item, Ref):
            return Ref(shared.get(item.value, item.value + offset))
        return [moved(part) for part in item] if isinstance(item, (list, tuple)) else item

    ops = tuple(
        replace(
            op,
            index=op.index + (BRANCH if op.index >= 0 else -BRANCH),
            arguments={name: moved(argument) for name, argument in op.arguments.items()},
            outputs=tuple(moved(ref) for ref in op.outputs),
        )
        for op in second.ops
    )
    values = tuple(replace(value, alias=value.alias + aliases) for value in second.values)
    state = {name: shared.get(number, number + offset) for name, number in second.state.items()}
    return OpGraph(
        (*first.ops, *ops),
        (*first.values, *values),
        {**first.state, **state},
        (*first.inputs, *(shared.get(number, number + offset) for number in second.inputs)),
        (*first.outputs, *(shared.get(number, number + offset) for number in second.outputs)),
        first.call_sites,
        second.call_sites,
        first.note,
        first.idle - second.state.keys(),
        first.fake or second.fake,
        first.watched,
    )
