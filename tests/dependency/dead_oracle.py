"""A brute-force oracle for what rules say of removed channels (`torchthin/dependency/dead_rules.py`).

Every recorded op is run again on inputs whose removed channels hold zeros, constants or fixed numbers, twice, with other numbers
in all that lives; and, where the op takes it, with a longer axis. What the rule claims of the result must hold:
- `ZERO`: the removed channel of the result is zero;
- `CONSTANT`: it is the same number at every position, for all living numbers and all sizes;
- `VARYING`: it is the same for all living numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from oracle import OUTPUT, UNSET, OpModule, _balance, _empties, _group_norm, _used, consumed
from samples import Sample
from torch import Tensor

from torchthin.dependency.components import Components, components
from torchthin.dependency.dead_rules import (
    ABSENT,
    CONSTANT,
    LIVE,
    VARYING,
    ZERO,
    DeadCall,
    DeadRule,
    Emissions,
    beside,
    live,
    pointwise,
)
from torchthin.dependency.labels import FlattenedAxis
from torchthin.dependency.propagate import Labels, is_pointwise, propagate
from torchthin.dependency.registry import rule_of
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import as_inputs, call_on_originals
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import ATTENTION, BATCH_NORMS, LAYER_NORMS, VIEWS, as_outputs, by_name, invoke
from torchthin.graph.opgraph import Op, Ref
from torchthin.graph.recorder import record
from torchthin.thinning.survivors import Survivors

BoolArray = npt.NDArray[np.bool_]
NAMES = {ZERO: "zero", CONSTANT: "constant", VARYING: "varying"}
NORMS = BATCH_NORMS | LAYER_NORMS | {"aten.native_group_norm"}
SIZED = {"aten.as_strided", "aten.as_strided_", "aten.resize_"}
OBSERVERS = {"aten._fused_moving_avg_obs_fq_helper"}
"""They write into buffers, which no input makes before."""
ANYTHING = UNSET | {"aten.rrelu_with_noise", "aten.randperm"}
"""Ops whose numbers are drawn, or are whatever memory holds."""


@dataclass(frozen=True)
class Setting:
    """What the arguments of an op hold in one trial, by value."""

    static: frozenset[int]
    """Computed from weights alone: the same numbers in every run."""
    held: Mapping[int, int]
    """Of those on which the removed channels lie."""


@dataclass
class Trial:
    """One op, and removed channels."""

    op: Op
    given: Mapping[str, Any]
    survivors: Survivors
    setting: Setting = field(default_factory=lambda: Setting(frozenset(), {}))

    @property
    def removed(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.survivors.removed)

    @property
    def channels(self) -> int:
        return self.removed.size

    def shape(self, value: int) -> tuple[int, ...]:
        return self.survivors.labels.graph.values[value].shape

    def is_static(self, value: int) -> bool:
        return (
            value in self.setting.static and value not in self.op.written
        )  # what is written follows what is read

    def is_stochastic(self, value: int) -> bool:
        return False

    def is_scalar(self, value: int) -> bool:
        return int(np.prod(self.shape(value))) == 1

    def even(self, value: int, tensor: Tensor, axes: Sequence[int]) -> BoolArray:
        each = [
            [_even(part, axes) for part in _parts(self, value, channel, tensor)]
            for channel in range(self.channels)
        ]
        return np.array([all(found) for found in each], np.bool_)

    def emissions(
        self, value: int, tensor: Tensor | None, axes: tuple[int, ...] | None, zeros: bool
    ) -> Emissions:
        return np.where(self.present(value, axes), self.setting.held.get(value, LIVE), ABSENT).astype(np.int8)

    def present(self, value: int, axes: tuple[int, ...] | None = None) -> BoolArray:
        """Return which removed channels lie on some axes of a value."""
        of_label, found = self.survivors.components.of_label, np.zeros(self.survivors.removed.size, np.bool_)
        for position, axis in enumerate(self.survivors.labels.values.get(value, ())):
            if axis is not None and (axes is None or position in axes):
                for vector in axis.parts if isinstance(axis, FlattenedAxis) else [axis]:
                    found[of_label[vector]] = True
        return found[self.removed]

    def claims(self, rule: DeadRule) -> Emissions:
        """Return what the rule says the results hold."""
        return rule(DeadCall(self.op, self.given, self))

    def arguments(self, seed: int, longer: tuple[str, int] | None = None) -> dict[str, Any]:
        """Return arguments as the setting says; what lives is drawn from `seed`."""
        made: dict[str, Any] = {}
        for name, argument in self.given.items():
            ref = self.op.arguments.get(name)
            if isinstance(argument, Tensor) and isinstance(ref, Ref):
                made[name] = self._filled(
                    ref.value,
                    _longer(argument, longer[1]) if longer and longer[0] == name else argument,
                    seed,
                )
            elif isinstance(argument, (list, tuple)) and isinstance(ref, (list, tuple)):
                made[name] = [
                    self._filled(r.value, t, seed) if isinstance(t, Tensor) and isinstance(r, Ref) else t
                    for r, t in zip(ref, argument, strict=True)
                ]
            else:
                made[name] = argument
        return made

    def _filled(self, value: int, tensor: Tensor, seed: int) -> Tensor:
        tensor = tensor.clone()
        buffer = self.op.name in OBSERVERS and value != self.op.reads[0]
        if value not in self.setting.static and not buffer:
            generator = torch.Generator().manual_seed(seed * 1000 + value)
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 2 + 0.1)
            else:
                tensor = tensor.roll(seed, 0) if tensor.dim() else tensor
        state = self.setting.held.get(value, LIVE)
        fixed = torch.Generator().manual_seed(value)
        if state == LIVE or not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        axes = self.survivors.cut_axes(value)
        for axis, kept in axes.items():
            where = torch.from_numpy(np.flatnonzero(~kept))
            shape = [1] * tensor.dim()
            shape[axis] = -1
            numbers = (
                torch.rand(len(where) if len(axes) == 1 else 1, generator=fixed, dtype=torch.float64).to(
                    tensor
                )
                + 0.3
            )
            part = tensor.index_select(axis, where)
            if state == ZERO:
                part = torch.zeros_like(part)
            elif state == CONSTANT:
                part = numbers.view(shape).expand_as(part)
            else:
                part = torch.rand(part.shape, generator=fixed, dtype=torch.float64).to(part) + 0.3
            tensor.index_copy_(axis, where, part.clone())
        return tensor


def _longer(tensor: Tensor, axis: int) -> Tensor:
    return torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)


class _Given(CountingMode):
    """Keeps the arguments of every op, as they are before it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, dict[str, Any]] = {}

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.found[self.completed] = {
            name: _copied(item) for name, item in by_name(func, args, kwargs).items()
        }
        return func(*args, **kwargs)


def _copied(item: Any) -> Any:
    if isinstance(item, Tensor):
        return item.clone()
    return [_copied(part) for part in item] if isinstance(item, (list, tuple)) else item


def rule_for(op: Op) -> DeadRule:
    """Return the rule that says what an op makes of removed channels."""
    entry = rule_of(op.name)
    if entry is None:
        return pointwise if is_pointwise(op.target) else live
    return entry.dead


def overstated(sample: Sample, operator: str | None = None, rule: DeadRule | None = None) -> list[str]:
    """Return all that the rule of a sample's operator (of each op where `operator` is None) claims and that does not hold."""
    module = OpModule(sample.function, sample.tensors)
    inputs = as_inputs(torch.zeros(2))
    graph = record(module, inputs).live()
    mode = _Given()
    with evaluation_mode(module), mode:
        call_on_originals(module, inputs)
    read, wrong = consumed(graph), []
    for op in graph.ops:
        if op.index in mode.found and operator in (None, op.name) and op.name not in ANYTHING:
            said = rule or rule_for(op)
            for trial in _trials(propagate_all(graph), op, mode.found[op.index]):
                wrong += _wrong(trial, trial.claims(said), read)
    return list(dict.fromkeys(wrong))


def propagate_all(graph: Any) -> list[Labels]:
    """Return the labels for the first two ways in which axes may be divided."""
    first = propagate(graph)
    return [first, propagate(graph, {op.index: 1 for op in graph.ops})] if first.split_choices else [first]


def _trials(labelled: list[Labels], op: Op, given: Mapping[str, Any]) -> Iterator[Trial]:
    for labels in labelled:
        labels.space.freezes[:] = [f for f in labels.space.freezes if f[1].text != OUTPUT]
        comps = components(labels.space)
        for gone in _removals(labels, comps):
            trial = Trial(op, given, Survivors(labels, comps, gone))
            for setting in _settings(trial):
                yield Trial(op, given, trial.survivors, setting)


def _removals(labels: Labels, comps: Components) -> Iterator[BoolArray]:
    """Yield one channel of every axis, and all of these at once."""
    used, axes = (
        _used(labels, comps),
        [v for axes in labels.state.values() for v in axes if isinstance(v, np.ndarray)],
    )
    met = [comps.of_label[vector][np.isin(comps.of_label[vector], used)] for vector in axes]
    starts = list(dict.fromkeys(int(found[len(found) // 2]) for found in met if len(found)))
    for chosen in [[start] for start in starts] + ([starts] if len(starts) > 1 else []):
        gone = np.zeros(comps.reason.size, np.bool_)
        gone[chosen] = True
        if _balance(labels, comps, gone) and not _empties(labels, comps, gone):
            yield gone


def _settings(trial: Trial) -> Iterator[Setting]:
    values = list(dict.fromkeys(trial.op.reads))
    carriers = [value for value in values if trial.present(value).any()]
    statics = [frozenset(values) - {value} for value in values] + [frozenset(), frozenset(values)]
    for static in dict.fromkeys(statics):
        seen = set()
        for states in _states(carriers):
            held = {value: _possible(trial, value, state, value in static) for value, state in states.items()}
            if tuple(held.items()) not in seen:
                seen.add(tuple(held.items()))
                yield Setting(static, held)


def _states(carriers: list[int]) -> Iterator[dict[int, int]]:
    for state in (ZERO, CONSTANT, VARYING):
        yield dict.fromkeys(carriers, state)
    for one in carriers if len(carriers) > 1 else ():
        for state, others in (
            (ZERO, LIVE),
            (ZERO, CONSTANT),
            (CONSTANT, ZERO),
            (LIVE, ZERO),
            (VARYING, CONSTANT),
        ):
            yield {value: state if value == one else others for value in carriers}


def _possible(trial: Trial, value: int, state: int, static: bool) -> int:
    """Return the state, or what can be known of weights, or of positions and masks, in its place."""
    dtype = trial.survivors.labels.graph.values[value].dtype
    if not dtype.is_floating_point and not dtype.is_complex:
        return VARYING if static else LIVE
    if not static or state == ZERO:
        return state
    shape = trial.shape(value)
    return CONSTANT if int(np.prod(shape)) in shape else VARYING


def _wrong(trial: Trial, claims: Emissions, read: set[int]) -> Iterator[str]:
    if not np.isin(claims, (ZERO, CONSTANT, VARYING)).any():
        return
    try:
        runs = [as_outputs(invoke(trial.op.target, trial.arguments(seed))) for seed in (1, 2)]
    except (RuntimeError, IndexError):  # an index that means something
        return
    for position, ref in enumerate(trial.op.outputs):
        if ref is None or ref.value not in read or runs[0][position] is None:
            continue
        dtype = trial.survivors.labels.graph.values[ref.value].dtype
        claimed = beside(claims, position, dtype.is_floating_point, trial.op.name in NORMS)
        for channel, claim in enumerate(claimed):
            parts = [_parts(trial, ref.value, channel, made[position]) for made in runs]
            if claim in NAMES and not _holds(trial, claim, *parts):
                yield _sentence(trial, claim, position)
            elif claim == CONSTANT and parts[0]:
                yield from _size_matters(trial, ref.value, channel, position, parts[0])


def _sentence(trial: Trial, claim: int, position: int, more: str = "") -> str:
    held = {value: NAMES.get(state, "live") for value, state in trial.setting.held.items()}
    static = sorted(trial.setting.static)
    return f"{trial.op.name}({trial.op.arguments}): result {position} is not {NAMES[claim]}{more} where {held}, static {static}"


def _parts(trial: Trial, value: int, channel: int, tensor: Tensor | None) -> list[Tensor]:
    """Return a result at every index of a removed channel, and at what is kept of the other axes."""
    labels, found = trial.survivors.labels.values[value], []
    comp = trial.removed[channel]
    for position, axis in enumerate(labels):
        if isinstance(axis, np.ndarray) and tensor is not None:
            where = np.flatnonzero((trial.survivors.components.of_label[axis] == comp) & (axis != 0))
            kept = tensor
            for other, keep in trial.survivors.cut_axes(value).items():
                if other != position and len(keep) <= tensor.shape[other]:
                    keep = np.append(keep, np.ones(tensor.shape[other] - len(keep), np.bool_))
                    kept = kept.index_select(other, torch.from_numpy(np.flatnonzero(keep)))
            found += [kept.narrow(position, int(i), 1) for i in where if i < tensor.shape[position]]
    return found


def _holds(trial: Trial, claim: int, first: list[Tensor], second: list[Tensor]) -> bool:
    if claim == ZERO:
        return not any(
            bool((part.nan_to_num() != 0).any()) for part in [*first, *second]
        )  # 0 / 0 is nothing to prune
    same = all(_close(a, b) for a, b in zip(first, second, strict=True))
    axes = _mixed(trial) if trial.op.name in VIEWS else None
    return same and (claim == VARYING or all(_even(part, axes) for part in second))


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.cdouble(), b.cdouble(), rtol=1e-9, atol=1e-9, equal_nan=True)


def _even(part: Tensor, axes: Sequence[int] | None = None) -> bool:
    """Whether numbers are the same along axes; None: everywhere."""
    along = range(part.dim()) if axes is None else axes
    return not part.numel() or all(_close(part, part.narrow(d, 0, 1).expand_as(part)) for d in along)


def _mixed(trial: Trial) -> list[int]:
    """Return the axes of a view on which several axes of its input lie; rows of a batch are never mixed."""
    shape, made = trial.shape(trial.op.reads[0]), trial.shape(trial.op.results[0])
    places = np.arange(int(np.prod(shape))).reshape(made)
    mixed = []
    for axis in range(1, len(made)):
        line = places[tuple(slice(None) if d == axis else 0 for d in range(len(made)))]
        mixed += [axis] if sum(len(set(c.tolist())) > 1 for c in np.unravel_index(line, shape)) > 1 else []
    return mixed


def _size_matters(
    trial: Trial, value: int, channel: int, position: int, expected: list[Tensor]
) -> Iterator[str]:
    """Run the op with a longer axis, one at a time, where it takes that."""
    if trial.op.name in ATTENTION | SIZED:  # kernels that do not check sizes, and arguments that fix them
        return
    for name, argument in trial.given.items():
        ref = trial.op.arguments.get(name)
        if not isinstance(argument, Tensor) or not isinstance(ref, Ref) or ref.value in trial.setting.static:
            continue
        cut = trial.survivors.cut_axes(ref.value)
        for axis in range(argument.dim()):
            given = trial.arguments(1, (name, axis))
            if trial.op.name == "aten.native_group_norm":
                _group_norm(trial.op, trial.survivors, given)
            try:
                made = None if axis in cut else as_outputs(invoke(trial.op.target, given))[position]
            except (RuntimeError, IndexError, ValueError):
                continue
            found = (
                [] if made is None or made.dim() != expected[0].dim() else _parts(trial, value, channel, made)
            )
            for a, b in zip(expected, found, strict=False):
                some = len(found) == len(expected) and a.numel() and b.numel()
                if some and not (_even(b) and _close(a.flatten()[0], b.flatten()[0])):
                    yield _sentence(trial, CONSTANT, position, f" for every size of axis {axis} of {name}")
