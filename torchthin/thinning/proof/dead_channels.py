"""What every value of the masked model holds at removed channels, carried on from op to op while the model runs.

The rules beside the label rules (`torchthin/dependency/dead_rules.py`) say what depends on the input; numbers are only looked at
to tell constants that are zero from others, which no other input can change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.dependency.dead_rules import (
    ABSENT,
    CONSTANT,
    LIVE,
    SHIFTED,
    VARYING,
    ZERO,
    DeadCall,
    DeadRule,
    Emissions,
    beside,
    live,
    moved,
    pointwise,
    worse,
)
from torchthin.dependency.labels import Axis, FlattenedAxis
from torchthin.dependency.propagate import is_pointwise
from torchthin.dependency.registry import rule_of
from torchthin.graph.operators import BATCH_NORMS, BATCHED_PRODUCTS, LAYER_NORMS, MOVES, VIEWS
from torchthin.graph.opgraph import Op
from torchthin.thinning.survivors import ROUNDING, BoolArray, Survivors, indices, nonzero_rows

_NORMS = BATCH_NORMS | LAYER_NORMS | {"aten.native_group_norm"}
_LOOK_UPS = {"aten.embedding", "aten.index", "aten.index_select", "aten.arange"}
_PICKS = {"aten.select", "aten.slice"}
_END = 2**62
"""A slice to the end of an axis has no smaller one."""

_KEEPS_LAST_AXIS = VIEWS | {"aten.expand", "aten.clone", "aten._to_copy", "aten.alias", "aten.unsqueeze"}


class DeadChannels:
    """Removed channels, numbered, and what the values of one run hold at them."""

    def __init__(self, survivors: Survivors) -> None:
        self._survivors, self._labels = survivors, survivors.labels
        removed = np.flatnonzero(survivors.removed)
        self.channels = removed.size
        number = np.full(survivors.removed.size, -1, np.int64)
        number[removed] = np.arange(removed.size)
        self._of_label = number[survivors.components.of_label]
        self._of_label[0] = -1  # what is frozen
        self._held: dict[int, Emissions] = {}
        self._read: set[int] = set()
        """Values whose constants were told from zeros."""
        self._patched: set[int] = set()
        """Values of which a part was written to, so that they may hold several constants."""
        self._on_axis: dict[int, BoolArray] = {}
        self._on_axes: dict[tuple[int, tuple[int, ...] | None], BoolArray] = {}
        self._static: dict[tuple[int, tuple[int, ...] | None], Emissions] = {}
        """What weights hold, until an op writes: many ops ask twice."""
        self._stochastic: set[int] = set()
        self.silent: set[str] = set()
        """Operators outside of torch that met removed channels, and whose rules say nothing of them."""
        self._sharing: dict[int, list[int]] = {}
        values = self._labels.graph.values
        for number_of_value, item in enumerate(values):
            self._sharing.setdefault(item.alias, []).append(number_of_value)
        self._taken = {
            number: op for op in self._labels.graph.ops if op.name in MOVES for number in op.results
        }
        """The op that took a value out of another one."""
        self._copied = {values[op.reads[0]].alias for op in self._labels.graph.ops if op.index < 0}
        """Storages of which copies were made, which keep what they held then."""

    def is_static(self, value: int) -> bool:
        """Whether a value is computed from weights alone."""
        return value not in self._labels.from_input and value not in self._held

    def is_stochastic(self, value: int) -> bool:
        """Whether the last axis of a value sums to one."""
        return self._source(value) in self._stochastic

    def is_scalar(self, value: int) -> bool:
        """Whether a value is one number, whatever the size of the input."""
        return prod(self.shape(value)) == 1 and not self._is_one_of_many(value)

    def even(self, value: int, tensor: Tensor, axes: Sequence[int]) -> BoolArray:
        """Return which removed channels of a value hold the same numbers all along some axes."""
        found = np.ones(self.channels, np.bool_)
        for position, axis in enumerate(self._labels.values[value]):
            along = [d for d in axes if d != position]
            if isinstance(axis, FlattenedAxis):
                found &= ~self._along(axis) | (not along)
            elif axis is not None:
                numbers = self._of_label[axis]
                hit = numbers >= 0
                part = tensor.index_select(position, indices(hit, tensor))
                for d in along:
                    found[numbers[hit][_uneven(part, d, position)]] = False
        return found

    def shape(self, value: int) -> tuple[int, ...]:
        """Return the shape of a value."""
        return self._labels.graph.values[value].shape

    def emissions(
        self, value: int, tensor: Tensor | None, axes: tuple[int, ...] | None, zeros: bool
    ) -> Emissions:
        """Return what a value holds at removed channels that lie on the given axes (None: on any)."""
        value, present = self._source(value), self._present(value, axes)
        if not present.any():
            return np.full(self.channels, ABSENT, np.int8)
        self._catch_up(value)
        if value in self._held:
            if value in self._patched and tensor is not None:
                self._tell_patches(value, tensor)
            if zeros and tensor is not None:
                self._tell_zeros(value, tensor)
            held = self._held[value]
        elif self.is_static(value) and tensor is not None:
            if (value, axes) not in self._static:
                self._static[value, axes] = self._of_weights(value, tensor, axes)
            held = self._static[value, axes]
        else:
            held = np.full(self.channels, LIVE, np.int8)
        return np.where(present, held, ABSENT).astype(np.int8)

    def _catch_up(self, value: int) -> None:
        """Take note of the op that makes a value where this run did not show it: loops shift the ops after them."""
        producer = self._labels.graph.producer.get(value)
        if value not in self._held and producer is not None and value in self._labels.from_input:
            self._held[value] = np.full(self.channels, LIVE, np.int8)
            self.note(producer, {})

    def _source(self, value: int) -> int:
        """Return what a value is a copy of: whether code copies is a matter of layout, and no op of a run."""
        producer = self._labels.graph.producer
        while value not in self._held and value in producer and producer[value].index < 0:
            value = producer[value].reads[0]
        return value

    def along(self, value: int, tensor: Tensor, axis: int, zeros: bool) -> Emissions:
        """Return what a value holds at each index of an axis, shape (size,); `ABSENT` where the index is kept."""
        return self._by_index(self._labels.values[value][axis], self.emissions(value, tensor, (axis,), zeros))

    def summed_alive(self, op: Op, given: Mapping[str, Any]) -> dict[tuple[int, int], BoolArray]:
        """Return where an op that sums loses a channel which is zero in none of its operands, by value and axis.

        "All are true" is such a sum, in which what is true counts for nothing.
        """
        left = np.logical_or.reduce([self._present(value, None) for value in op.results])
        held = [item for item, _ in DeadCall(op, given, self).operands()]
        gone = np.logical_or.reduce([item != ABSENT for item in held]) & ~left
        neutral = (CONSTANT,) if op.name == "aten.all" else (ZERO, SHIFTED)
        somewhere_neutral = np.logical_or.reduce([np.isin(item, neutral) for item in held])
        return self._places(op, gone & ~somewhere_neutral)

    def measured_alive(self, op: Op, given: Mapping[str, Any]) -> dict[tuple[int, int], BoolArray]:
        """Return where the data that an op measures are not zero, by value and axis."""
        return self._places(op, DeadCall(op, given, self).operands()[0][0] > ZERO)

    def _places(self, op: Op, channels: BoolArray) -> dict[tuple[int, int], BoolArray]:
        alive = np.append(channels, False)
        found = {}
        for value in dict.fromkeys(op.reads):
            for position, axis in enumerate(self._labels.values[value]):
                if isinstance(axis, FlattenedAxis):
                    hit = ~axis.spread(lambda vector: ~alive[self._of_label[vector]])
                else:
                    hit = np.zeros(0, np.bool_) if axis is None else alive[self._of_label[axis]]
                if hit.any():
                    found[value, position] = hit
        return found

    def note(self, op: Op, given: Mapping[str, Any]) -> None:
        """Take note of what the results of an op will hold; called before it runs, since it may write into what it is given."""
        self._note(op, given)
        if op.written:
            self._static.clear()

    def _note(self, op: Op, given: Mapping[str, Any]) -> None:
        self._note_distribution(op)
        random = torch.Tag.nondeterministic_seeded in op.target.tags
        if not random and all(value not in self._labels.from_input for value in op.results):
            return
        values = self._labels.graph.values
        made = {value for value in op.results if self._present(value, None).any()}
        if made:
            rule = _rule(op)
            held = rule(DeadCall(op, given, self))
            self.silent |= {op.name} if rule is live and not op.name.startswith("aten.") else set()
            for position, ref in enumerate(op.outputs):
                if ref is not None and ref.value in made:
                    floating = values[ref.value].dtype.is_floating_point
                    self._hold(ref.value, beside(held, position, floating, op.name in _NORMS))
            for value in op.written:
                self._overwrite(value, held)

    def _hold(self, value: int, held: Emissions) -> None:
        present = self._present(value, None)
        self._held[value] = np.where(present, np.where(held == ABSENT, LIVE, held), ABSENT).astype(np.int8)
        self._read.discard(value)

    def _overwrite(self, value: int, held: Emissions) -> None:
        """Let what is written through one view be seen through the others."""
        values = self._labels.graph.values
        sizes = {other: prod(values[other].shape) for other in self._sharing[values[value].alias]}
        whole = not self._is_the_only(value) and values[value].alias not in self._copied
        for other, size in sizes.items():
            if whole and size == sizes[value]:
                self._hold(other, held)
            elif other in self._held:
                present, before = self._present(other, None), self._held[other]
                after = np.where(held == ABSENT, LIVE, np.maximum(before, held))
                unseen = size == sizes[value] or not sizes[value]  # in a run of more rows it is a part
                after = worse(after) if unseen else after
                self._held[other] = np.where(present, after, ABSENT).astype(np.int8)
                self._patched.add(other)

    def _is_one_of_many(self, value: int) -> bool:
        """Whether a value is one entry of an axis of weights, such as the positions of one token: more tokens read more of it."""
        producer, queue, seen = self._labels.graph.producer, [value], {value}
        while queue:
            op = producer.get(queue.pop())
            if op is None:
                continue
            if op.name in _LOOK_UPS and all(prod(self.shape(number)) == 1 for number in op.reads[1:]):
                return True
            if op.name == "aten.slice":
                dim = op.arguments.get("dim", 0)
                if self.shape(op.results[0])[dim] == 1 < self.shape(op.reads[0])[dim]:
                    return True
            queue += [number for number in op.reads if number not in seen]
            seen.update(op.reads)
        return False

    def _is_the_only(self, value: int) -> bool:
        """Whether code takes one entry of an axis that has no other in this run."""
        while value in self._taken:
            op = self._taken[value]
            end = op.arguments.get("end")
            explicit = op.name == "aten.select" or op.arguments.get("start") or (end or _END) < _END
            if explicit and op.name in _PICKS and self.shape(op.reads[0])[op.arguments.get("dim", 0)] == 1:
                return True
            value = op.reads[0]
        return False

    def _note_distribution(self, op: Op) -> None:
        values = self._labels.graph.values
        last = len(values[op.results[0]].shape) - 1 if op.results else 0
        if op.name in {"aten._softmax", "aten._safe_softmax"}:
            if op.arguments["dim"] in {-1, last} and not self._may_be_masked(op):
                self._stochastic.add(op.results[0])
        elif op.name in _KEEPS_LAST_AXIS and self._source(op.reads[0]) in self._stochastic:
            kept = values[op.results[0]].shape[-1:] == values[op.reads[0]].shape[-1:]
            self._stochastic.update(op.results[:kept])

    def _may_be_masked(self, op: Op) -> bool:
        """Whether a softmax that makes zeros of whole rows of minus infinity sees a mask that comes with the input."""
        before = self._labels.graph.producer.get(op.reads[0])
        if op.name != "aten._safe_softmax" or before is None or before.name in BATCHED_PRODUCTS:
            return False
        return sum(value in self._labels.from_input for value in before.reads) > 1

    def _present(self, value: int, axes: tuple[int, ...] | None) -> BoolArray:
        """Return which removed channels lie on axes of a value."""
        if (value, axes) not in self._on_axes:
            found = np.zeros(self.channels, np.bool_)
            for position, axis in enumerate(self._labels.values.get(value, ())):
                if axis is not None and (axes is None or position in axes):
                    found |= self._along(axis)
            self._on_axes[value, axes] = found
        return self._on_axes[value, axes]

    def _along(self, axis: FlattenedAxis | npt.NDArray[np.int64]) -> BoolArray:
        if id(axis) not in self._on_axis:
            found = np.zeros(self.channels, np.bool_)
            for vector in axis.parts if isinstance(axis, FlattenedAxis) else (axis,):
                numbers = self._of_label[vector]
                found[numbers[numbers >= 0]] = True
            self._on_axis[id(axis)] = found
        return self._on_axis[id(axis)]

    def _tell_zeros(self, value: int, tensor: Tensor) -> None:
        held = self._held[value]
        if value in self._read or not (held == CONSTANT).any() or not tensor.numel():
            return
        self._read.add(value)
        zero = held == CONSTANT
        for position, axis in enumerate(self._labels.values[value]):
            if isinstance(axis, FlattenedAxis):
                zero &= ~self._along(axis)
            elif axis is not None:
                zero &= ~self._nonzero(axis, position, tensor)
        self._held[value] = np.where(zero, ZERO, held).astype(np.int8)

    def _tell_patches(self, value: int, tensor: Tensor) -> None:
        """Tell whether all parts that were written hold the same number."""
        self._patched.discard(value)
        uneven = ~self.even(value, tensor, range(tensor.dim()))
        held = self._held[value]
        self._held[value] = np.where((held == CONSTANT) & uneven, VARYING, held).astype(np.int8)

    def _nonzero(self, axis: npt.NDArray[np.int64], position: int, tensor: Tensor) -> BoolArray:
        """Return which channels on an axis have a number that is not zero."""
        numbers = self._of_label[axis]
        hit = numbers >= 0
        some = nonzero_rows(tensor, position, hit)
        found = np.zeros(self.channels, np.bool_)
        found[numbers[hit][some]] = True
        return found

    def _of_weights(self, value: int, tensor: Tensor, axes: tuple[int, ...] | None) -> Emissions:
        """Return what is known for sure of numbers that no input changes."""
        found = np.full(self.channels, ZERO, np.int8)
        for position, axis in enumerate(self._labels.values[value]):
            if axis is None or (axes is not None and position not in axes):
                continue
            if isinstance(axis, FlattenedAxis):
                found[self._along(axis)] = VARYING
            else:
                some = self._nonzero(axis, position, tensor)
                alone = tensor.numel() == tensor.shape[position] and not self._is_one_of_many(value)
                found[some] = CONSTANT if alone else VARYING
        return found

    def _by_index(self, axis: Axis, held: Emissions) -> Emissions:
        if axis is None:
            return np.zeros(0, np.int8)
        extended = np.append(held, np.int8(ABSENT))
        if not isinstance(axis, FlattenedAxis):
            found: Emissions = extended[self._of_label[axis]]
            return found
        sizes = axis.spread(lambda vector: np.ones(vector.shape, np.bool_)).size
        result = np.full(sizes, ABSENT, np.int8)
        for level in range(LIVE, ZERO - 1, -1):
            gone = ~axis.spread(
                lambda v, level=level: (
                    (extended[self._of_label[v]] > level)  # type: ignore[misc]
                    | (extended[self._of_label[v]] == ABSENT)
                )
            )
            result[gone] = level
        return result


def _uneven(part: Tensor, axis: int, channels: int) -> BoolArray:
    """Return at which indices of the axis `channels` numbers change along another axis."""
    if not part.numel():
        return np.zeros(part.shape[channels], np.bool_)
    far = (part - part.narrow(axis, 0, 1)).abs() > ROUNDING * float(part.abs().max())
    changes: BoolArray = far.movedim(channels, 0).flatten(1).any(1).cpu().numpy()
    return changes


def _rule(op: Op) -> DeadRule:
    if op.name in {"aten.detach", "aten.clone"}:
        return moved
    entry = rule_of(op.name)
    if entry is None:
        return pointwise if is_pointwise(op.target) else live
    return entry.dead
