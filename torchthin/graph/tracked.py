"""Integers that remember what they were computed from: integers that modules keep, and sizes of axes.

A run with such integers shows what code uses a number for. The formulas are plain data, and can be evaluated for other sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

LARGEST = 64
"""Operations in a formula; a number that took more (a sum that a loop adds up) is a plain integer."""


class Attribute(NamedTuple):
    """An integer that a module keeps."""

    module: str
    path: str
    """Name of the attribute, and the way into what it holds: ``dims.1``, ``config.hidden_size``."""


@dataclass(frozen=True, slots=True)
class AxisSize:
    """The size of an axis of a recorded value."""

    value: int
    axis: int


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of an operation."""

    function: str
    """Name in the module ``operator``."""
    left: Formula
    right: Formula
    operations: int


Formula = int | Attribute | AxisSize | Computed


def computed(function: str, left: Formula, right: Formula) -> Computed:
    """Return the formula of an operation."""
    operations = sum(part.operations for part in (left, right) if isinstance(part, Computed))
    return Computed(function, left, right, operations + 1)


def evaluate(formula: Formula, size_of: Callable[[Attribute | AxisSize], int]) -> int:
    """Return what a formula gives for these sizes."""
    if isinstance(formula, Computed):
        left, right = evaluate(formula.left, size_of), evaluate(formula.right, size_of)
        return int(getattr(operator, formula.function)(left, right))
    return formula if isinstance(formula, int) else size_of(formula)


def attributes_in(formula: Formula) -> Iterator[Attribute]:
    """Yield the attributes that a formula reads."""
    if isinstance(formula, Computed):
        yield from attributes_in(formula.left)
        yield from attributes_in(formula.right)
    elif isinstance(formula, Attribute):
        yield formula


Equal = Callable[[Formula, Formula], None]
"""Takes note that two numbers were compared and found equal."""


class Tracked(int):
    """An integer with its formula. What code computes from it with integers is tracked as well."""

    formula: Formula
    equal: Equal

    @classmethod
    def of(cls, number: int, formula: Formula, equal: Equal) -> Tracked:
        """Return a tracked integer that tells `equal` what it was found equal to."""
        made = cls(number)
        made.formula, made.equal = formula, equal
        return made

    def __eq__(self, other: object) -> bool:
        same = int(self) == other
        if same:
            self.equal(self.formula, formula_of(other))
        return same

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def __neg__(self) -> int:
        return 0 - self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)  # a copy is a plain integer


def formula_of(number: object) -> Formula:
    """Return the formula of a number; a plain one is its own."""
    if isinstance(number, Tracked):
        return number.formula
    return number if isinstance(number, int) else 0


def _tracking(function: str, *, reflected: bool) -> Callable[[Tracked, Any], Any]:
    compute = getattr(int, f"__{'r' if reflected else ''}{function}__")

    def method(self: Tracked, other: Any) -> Any:
        result = compute(self, other)
        if type(result) is not int:
            return result
        sides = (formula_of(other), self.formula) if reflected else (self.formula, formula_of(other))
        formula = computed(function, *sides)
        return result if formula.operations > LARGEST else Tracked.of(result, formula, self.equal)

    return method


for _function in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Tracked, f"__{_function}__", _tracking(_function, reflected=False))
    setattr(Tracked, f"__r{_function}__", _tracking(_function, reflected=True))
