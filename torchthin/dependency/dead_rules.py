"""What a removed channel still emits: derived op by op from the graph and the weights, never from what a run happened to show.

A masked filter emits its bias; a BatchNorm, an activation, a sum make something else of that. Beside its label rule an operator
has a rule that says what its result holds at removed channels, given what goes in:

    @register_op("aten.mul", dead=product)

An operator without such a rule makes `LIVE` of everything: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.graph.operators import invoke
from torchthin.graph.opgraph import Op, Ref

Emissions = npt.NDArray[np.int8]
"""Shape (removed channels,): one of the numbers below for each; a higher one is less certain, so `np.maximum` joins them."""

ABSENT = -1
"""The channel is not on this tensor."""
ZERO = 0
CONSTANT = 1
"""The same at every position, for every input and every size of input."""
VARYING = 2
"""Independent of the input's values, but not of the position or of the size: a border, a position's own parameter."""
SHIFTED = 3
"""What a norm without weights makes of zeros: nothing but the statistics of the other channels."""
LIVE = 4
"""May depend on the input."""


class Facts(Protocol):
    """What is known about the values of a run; see `torchthin/thinning/proof/dead_channels.py`."""

    channels: int

    def emissions(
        self, value: int, tensor: Tensor | None, axes: tuple[int, ...] | None, zeros: bool
    ) -> Emissions:
        """Return what a value holds at removed channels that lie on the given axes (None: on any).

        `zeros`: look at the numbers of constants, and tell those that are zero.
        """

    def shape(self, value: int) -> tuple[int, ...]:
        """Return the shape of a value."""

    def is_static(self, value: int) -> bool:
        """Whether a value is computed from weights alone."""

    def is_stochastic(self, value: int) -> bool:
        """Whether the last axis of a value sums to one."""

    def is_scalar(self, value: int) -> bool:
        """Whether a value is one number, whatever the size of the input."""

    def even(self, value: int, tensor: Tensor, axes: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return which removed channels of a value hold the same numbers all along some axes."""


class DeadCall:
    """One op of the masked model before it runs: its arguments, and what they hold at removed channels."""

    def __init__(self, op: Op, given: Mapping[str, Any], facts: Facts) -> None:
        self.op = op
        self._given = given
        self._facts = facts

    def arg(self, name: str, default: Any = None) -> Any:
        """Return an argument that is no tensor; `default` when left out."""
        return self.op.arguments.get(name, default)

    def has(self, name: str) -> bool:
        """Whether the argument was given and is a tensor."""
        return self.op.value(name) is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor argument."""
        value = self.op.value(name)
        return () if value is None else self._facts.shape(value)

    def of(self, name: str, *axes: int) -> Emissions:
        """Return what a tensor argument holds at removed channels, `ABSENT` where there are none on it.

        `axes`: look at these alone.
        """
        value = self.op.value(name)
        if value is None:
            return self.nowhere()
        rank = len(self._facts.shape(value))
        places = tuple(axis % rank for axis in axes if rank) or None
        return self._facts.emissions(value, self._given.get(name), places, True)

    def whole(self, name: str) -> Emissions:
        """As `of`, and where a channel is not on the argument, what its numbers make of any channel."""
        number = self.op.value(name)
        assert number is not None
        given = self._given.get(name)
        zero = self.static(name) and given is not None and not bool(given.any())
        scalar = self.static(name) and self._facts.is_scalar(number)
        other = ZERO if zero else CONSTANT if scalar else VARYING if self.static(name) else LIVE
        held = self.of(name)
        return np.where(held == ABSENT, other, held).astype(np.int8)

    def even(self, axes: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return which channels hold the same numbers all along some axes of the result, for an op that moves numbers."""
        if any(item is None for _, item in self._tensors()):
            return np.zeros(self._facts.channels, np.bool_)
        return self._facts.even(self.op.results[0], invoke(self.op.target, self._given), axes)

    def nowhere(self) -> Emissions:
        """Return `ABSENT` for every channel."""
        return np.full(self._facts.channels, ABSENT, np.int8)

    def operands(self, *, zeros: bool = True) -> list[tuple[Emissions, int]]:
        """Return of every tensor argument what it holds at removed channels, and what it does to a channel that it has not.

        `zeros`: tell constants that are zero from others.
        """
        found = []
        for number, tensor in self._tensors():
            static = self._facts.is_static(number)
            other = LIVE if not static else CONSTANT if self._facts.is_scalar(number) else VARYING
            found.append((self._facts.emissions(number, tensor, None, zeros), other))
        return found

    def out_shape(self) -> tuple[int, ...]:
        """Return the shape of the first result."""
        return self._facts.shape(self.op.results[0])

    def static(self, name: str) -> bool:
        """Whether an argument is computed from weights alone, or was not given."""
        value = self.op.value(name)
        return value is None or self._facts.is_static(value)

    def is_off(self, name: str) -> bool:
        """Whether a switch that is given as a tensor is off."""
        given = self._given.get(name)
        return isinstance(given, Tensor) and not bool(given.any())

    def stochastic(self, name: str) -> bool:
        """Whether the last axis of an argument sums to one."""
        value = self.op.value(name)
        return value is not None and self._facts.is_stochastic(value)

    def keeps_zero(self) -> bool:
        """Whether a pointwise op makes zero of zeros."""
        zeros = {
            name: torch.zeros(1, dtype=torch.float64) if isinstance(given, Ref) else given
            for name, given in self.op.arguments.items()
        }
        try:
            result = invoke(self.op.target, zeros)
        except (RuntimeError, TypeError, IndexError):  # not made for one number
            return False
        return isinstance(result, Tensor) and not bool(result.any())

    def _tensors(self) -> list[tuple[int, Tensor | None]]:
        flat: list[tuple[int, Tensor | None]] = []
        for name, argument in self.op.arguments.items():
            given = self._given.get(name)
            if isinstance(argument, Ref):
                flat.append((argument.value, given))
            elif isinstance(argument, (list, tuple)):
                items = given if isinstance(given, (list, tuple)) else [None] * len(argument)
                flat += [
                    (ref.value, item)
                    for ref, item in zip(argument, items, strict=False)
                    if isinstance(ref, Ref)
                ]
        return flat


DeadRule = Callable[[DeadCall], Emissions]


def live(call: DeadCall) -> Emissions:
    """Nothing is known."""
    return np.full_like(call.nowhere(), LIVE)


def least(emissions: Emissions, least_of_all: int) -> Emissions:
    """Return the emissions with at least `least_of_all` where a channel is present."""
    return np.where(emissions == ABSENT, ABSENT, np.maximum(emissions, least_of_all)).astype(np.int8)


def worse(emissions: Emissions, constant: int = VARYING, varying: int = VARYING) -> Emissions:
    """Return the emissions with constants and varying ones made something else; zeros stay zeros."""
    changed = np.where(emissions == CONSTANT, constant, np.where(emissions == VARYING, varying, emissions))
    return changed.astype(np.int8)


def _joined(operands: list[tuple[Emissions, int]]) -> Emissions:
    parts = [np.where(held == ABSENT, other, held) for held, other in operands]
    absent = np.logical_and.reduce([held == ABSENT for held, _ in operands])
    return np.where(absent, ABSENT, np.maximum.reduce(parts)).astype(np.int8)


def pointwise(call: DeadCall) -> Emissions:
    """A function of what stands at the same place in every operand."""
    operands = call.operands(zeros=False)
    if not operands:
        return np.full_like(call.nowhere(), CONSTANT)
    made = _joined(operands)
    zeros = np.logical_and.reduce([held == ZERO for held, _ in operands])
    if zeros.any() and call.keeps_zero():
        return np.where(zeros, ZERO, least(made, CONSTANT)).astype(np.int8)
    return least(made, CONSTANT)


def product(call: DeadCall) -> Emissions:
    """Zero where a factor is zero, whatever the others are."""
    made = pointwise(call)
    if (made <= CONSTANT).all():
        return made
    zero = np.logical_or.reduce([held == ZERO for held, _ in call.operands()])
    return np.where(zero, ZERO, made).astype(np.int8)


def quotient(call: DeadCall) -> Emissions:
    """Zero where the numerator is zero."""
    return np.where(call.operands()[0][0] == ZERO, ZERO, pointwise(call)).astype(np.int8)


def moved(call: DeadCall) -> Emissions:
    """The numbers of one tensor in another order, or some of them."""
    found: Emissions = np.maximum.reduce([held for held, _ in call.operands(zeros=False)])
    return found


def selected(call: DeadCall) -> Emissions:
    """One of several operands at every place: zero where all of them are."""
    zero = np.logical_and.reduce([item == ZERO for item in _data(call)])
    return np.where(zero, ZERO, pointwise(call)).astype(np.int8)


def _data(call: DeadCall) -> list[Emissions]:
    """Return what the operands hold whose numbers are handed on: at removed channels, or anywhere."""
    names = ("self", "input", "other", "value", "src", "source", "values")
    number = call.arg("value", 0)
    written = [np.full_like(call.nowhere(), CONSTANT)] if isinstance(number, (int, float)) and number else []
    return [call.whole(name) for name in names if call.has(name)] + written


def joined(call: DeadCall) -> Emissions:
    """Tensors side by side: two constants of one channel are one no more."""
    operands = [held for held, _ in call.operands(zeros=False)]
    several: npt.NDArray[np.bool_] = np.sum([held != ABSENT for held in operands], axis=0) > 1
    if several.any():
        operands = [held for held, _ in call.operands()]
    together = np.maximum.reduce(operands)
    return np.where(several, worse(together), together).astype(np.int8)


def picked(call: DeadCall) -> Emissions:
    """Places that are looked up by number: which ones may depend on the input."""
    data = call.operands()[0][0]
    indices = [name for name in ("index", "indices", "offsets", "grid", "rois") if call.has(name)]
    fixed = all(map(call.static, indices)) and bool(indices)
    return data if fixed else worse(data, CONSTANT, LIVE)


def written(call: DeadCall) -> Emissions:
    """Places that are written to: zero where everything is."""
    return worse(np.maximum.reduce(_data(call)), LIVE, LIVE)


def overwritten(call: DeadCall) -> Emissions:
    """One number everywhere, whatever stood there, or wherever the shape and type of a new tensor come from."""
    value = call.op.value("value")
    return np.full_like(call.nowhere(), CONSTANT if value is None or call.static("value") else LIVE)


def interpolated(call: DeadCall) -> Emissions:
    """Means and extremes of neighbours, without a border: constants stay."""
    return call.operands(zeros=False)[0][0]


def beside(held: Emissions, position: int, floating: bool, norm: bool) -> Emissions:
    """What a further result of an op holds: positions and masks, or statistics, are no numbers of the channel."""
    return least(held, LIVE) if position and (norm or not floating) else held


def rounded(call: DeadCall) -> Emissions:
    """A function of the number and of a scale. One that an observer moves follows the other channels, as a norm does."""
    held = call.operands()[0][0]
    if prod(call.shape("scale")) > 1:  # one for each index of an axis
        held = np.where(call.of("scale") == ABSENT, worse(held), held).astype(np.int8)
    fixed = all(map(call.static, ("scale", "zero_point", "running_min", "running_max")))
    return held if fixed or call.is_off("observer_on") else worse(held, SHIFTED, LIVE)


def summed(call: DeadCall) -> Emissions:
    """A sum over other axes than the channel's: how many terms it has is a matter of size."""
    return worse(call.operands()[0][0])


def accumulated(call: DeadCall) -> Emissions:
    """A number for every position along another axis: constants vary."""
    return worse(call.operands()[0][0])
