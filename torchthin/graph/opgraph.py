"""The record of one forward pass: every ATen op, what went in, what came out, and where in the model it was called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from torchthin.graph.operators import operator_name, written_arguments
from torchthin.graph.precision import AS_GIVEN, Precision
from torchthin.graph.recurrent import RecurrentState
from torchthin.graph.tracked import Formula


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
    """Value numbers of all tensor arguments, in schema order."""
    name: str = field(init=False, repr=False, compare=False)
    """Operator name without overload, for instance ``aten.convolution``."""
    results: list[int] = field(init=False, repr=False, compare=False)
    """Value numbers of all tensor results."""

    def __post_init__(self) -> None:
        found: list[int] = []
        for argument in self.arguments.values():
            if type(argument) is Ref:
                found.append(argument.value)
            elif type(argument) is list or type(argument) is tuple:
                found += [item.value for item in argument if type(item) is Ref]
        object.__setattr__(self, "reads", tuple(found))
        object.__setattr__(self, "name", operator_name(self.target))
        object.__setattr__(self, "results", [ref.value for ref in self.outputs if ref is not None])

    @property
    def trained(self) -> bool:
        """Whether the op is part of the second run, of the training branch."""
        return abs(self.index) >= BRANCH

    @property
    def written(self) -> list[int]:
        """Value numbers of the tensor arguments that the op changes in place."""
        return [value for name in written_arguments(self.target) if (value := self.value(name)) is not None]

    @property
    def decides(self) -> bool:
        """Whether the op hands numbers to Python code, which may run something else for other numbers."""
        return not self.results and torch.Tag.data_dependent_output in self.target.tags

    def value(self, argument: str | None) -> int | None:
        """Return the value number of a tensor argument, None where it is something else or was not given."""
        given = self.arguments.get(argument or "")
        return given.value if isinstance(given, Ref) else None

    def argument_of(self, value: int) -> str:
        """Return the name of the argument that is a value."""
        return next(name for name, given in self.arguments.items() if given == Ref(value))


CallSite = tuple[str, int, int]
"""Path of the innermost module, number of its call, number of the op among those of this call's own code.

Code that loops as often as the data ask (over detected boxes) shifts the ops after it in its own call only.
"""

BRANCH = 10_000_000
"""Op indices of the second recorded run, of the training branch, start here."""


@dataclass(frozen=True)
class SizeUse:
    """A number, computed from integers that modules keep, that says how many indices there are in a range of an axis."""

    formula: Formula
    value: int
    axis: int
    start: int = 0
    stop: int | None = None
    """The range, as in a slice."""


@dataclass(frozen=True)
class SizeUses:
    """What a run did with the integers that modules keep."""

    uses: tuple[SizeUse, ...] = ()
    factors: Mapping[int, float] = field(default_factory=dict)
    """Op index -> the number that a tensor was multiplied with (of a division its inverse)."""
    complete: bool = True
    """Whether all factors are there: a run without arithmetic does not know those that are tensors."""


@dataclass(frozen=True)
class OpGraph:
    """A recorded forward pass."""

    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    state: dict[str, int] = field(repr=False)
    """Value number of every parameter and buffer that some op read, by its first name in the model."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    call_sites: Mapping[int, Mapping[CallSite, int]] = field(default_factory=dict, repr=False)
    """By the start of a run's indices (0, and `BRANCH` of a second run): where in the model every op was called -> its index
    counted from that start, dead ops included."""
    note: str = ""
    """What could not be recorded, in words."""
    idle: frozenset[str] = frozenset()
    """Parameters and buffers whose results reach no output."""
    fake: bool = False
    """Recorded without arithmetic: if code looks at numbers unseen, a run with numbers has other ops."""
    precision: Precision = AS_GIVEN
    """What the run computed in."""
    narrow: bool = False
    """Whether the model's own weights are of half precision, whatever the run computed in."""
    recurrent: tuple[RecurrentState, ...] = ()
    """The hidden states of recurrent layers."""
    size_uses: SizeUses | None = None
    """What the first run did with integers that modules keep; None where the run was not watched."""
    handed: tuple[int, ...] = ()
    """Values whose numbers code took past the dispatcher (``tolist``, ``numpy``)."""
    states: tuple[int, ...] = ()
    """What the model hands to its own next call: no outputs, since both calls are the model's."""
    macs: int = 0
    """Multiply-accumulates of the evaluation run."""

    @property
    def ends(self) -> tuple[int, ...]:
        """Everything that the model returns."""
        return (*self.outputs, *self.states)

    @cached_property
    def producer(self) -> Mapping[int, Op]:
        """Value number -> the op whose result it is (of several, which change it in place, the last)."""
        return {value: op for op in self.ops for value in op.results}

    @cached_property
    def users(self) -> Mapping[int, list[Op]]:
        """Value number -> the ops that read it, one entry for each argument."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for value in op.reads:
                found.setdefault(value, []).append(op)
        return found

    @cached_property
    def by_index(self) -> Mapping[int, Op]:
        """Op index -> op."""
        return {op.index: op for op in self.ops}

    @cached_property
    def names(self) -> Mapping[int, str]:
        """Value number of every parameter and buffer -> its name."""
        return {number: name for name, number in self.state.items()}

    @property
    def single_steps(self) -> tuple[RecurrentState, ...]:
        """The states that the example made once: what becomes of them in the next step was not seen."""
        return tuple(
            item
            for item in self.recurrent
            if item.weight in self.state and len(self.users.get(self.state[item.weight], ())) == 1
        )

    @property
    def branched(self) -> bool:
        """Whether a second run, of the training branch, is part of the graph."""
        return any(op.trained for op in self.ops)

    @cached_property
    def random_op(self) -> Op | None:
        """The first op of the second run that draws random numbers: two such runs cannot be compared."""
        seeded = torch.Tag.nondeterministic_seeded
        return next((op for op in self.ops if op.trained and seeded in op.target.tags), None)

    def live(self) -> OpGraph:
        """Return the graph without ops that reach neither an output nor a decision of the code (ai8x computes unused
        statistics) and what only they read."""
        return self._reaching(self.ends)

    def with_idle_layers(self) -> OpGraph:
        """Return the live graph with the layers that reach no output (a head whose result is dropped): they must still fit.

        Parameters that only these layers read are `idle`. Without any output nothing is added.
        """
        live = self.live()
        known: set[int] = set(self.inputs)
        made: list[int] = []
        unread = set(self.state.values()) - set(live.state.values())
        if not unread:
            return live
        for op in self.ops:
            if not known.isdisjoint(op.reads):
                known.update(op.results)
                made += op.results if not unread.isdisjoint(op.reads) else []
            elif not unread.isdisjoint(op.reads):  # computed from such a parameter alone
                unread.update(op.results)
        if not made or not live.ops:
            return live
        whole = self._reaching((*self.ends, *made))
        return replace(whole, idle=frozenset(whole.state.keys() - live.state.keys()))

    def _reaching(self, ends: Iterable[int]) -> OpGraph:
        known = self._from_input()
        wanted = {*ends, *known.intersection(self.handed)}
        aliases = {self.values[v].alias for v in wanted}
        kept: list[Op] = []
        for op in reversed(self.ops):
            changed = {self.values[value].alias for value in op.written}
            decides = op.decides and not known.isdisjoint(op.reads)
            if not wanted.isdisjoint(op.results) or changed & aliases or decides:
                kept.append(op)
                wanted.update(op.reads)
                aliases.update(self.values[number].alias for number in op.reads)
        kept.reverse()
        read = {number for op in kept for number in op.reads} | set(self.ends)
        state = {name: number for name, number in self.state.items() if number in read}
        return replace(self, ops=tuple(kept), state=state)

    def _from_input(self) -> set[int]:
        """Return the values that follow the input; what code asks of weights is the same in every run."""
        known = set(self.inputs)
        for op in self.ops:
            if not known.isdisjoint(op.reads):
                known.update(op.results, op.written)
        return known

    def merged(self, branch: OpGraph) -> OpGraph:
        """Return one graph of this evaluation run and a training run of the same model; parameters are shared.

        The second run's ops get indices from `BRANCH` on.
        """
        offset = len(self.values)
        shared = {number: self.state[name] for name, number in branch.state.items() if name in self.state}
        aliases = 1 + max((value.alias for value in self.values), default=0)

        def renumbered(value: int) -> int:
            return shared.get(value, value + offset)

        def moved(item: Any) -> Any:
            if isinstance(item, Ref):
                return Ref(renumbered(item.value))
            return [moved(part) for part in item] if isinstance(item, (list, tuple)) else item

        ops = tuple(
            replace(
                op,
                index=op.index + (BRANCH if op.index >= 0 else -BRANCH),
                arguments={name: moved(given) for name, given in op.arguments.items()},
                outputs=tuple(moved(ref) for ref in op.outputs),
            )
            for op in branch.ops
        )
        return replace(
            self,
            ops=(*self.ops, *ops),
            values=(*self.values, *(replace(value, alias=value.alias + aliases) for value in branch.values)),
            state={**self.state, **{name: renumbered(number) for name, number in branch.state.items()}},
            inputs=(*self.inputs, *map(renumbered, branch.inputs)),
            outputs=(*self.outputs, *map(renumbered, branch.outputs)),
            handed=(*self.handed, *map(renumbered, branch.handed)),
            states=(*self.states, *map(renumbered, branch.states)),
            call_sites={**self.call_sites, BRANCH: branch.call_sites[0]},
            idle=(self.idle | branch.idle)
            - (self.state.keys() - self.idle)
            - (branch.state.keys() - branch.idle),
            fake=self.fake or branch.fake,
        )
