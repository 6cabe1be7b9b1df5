"""Remedies that let two axes lose equal numbers: the model's code uses one size for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from torchthin.dependency.labels import Axis
from torchthin.dependency.propagate import CoupledAxes
from torchthin.dependency.registry import Contraction
from torchthin.graph.operators import VIEWS
from torchthin.graph.opgraph import Op
from torchthin.thinning.search.constraints import Constraints, Provisional
from torchthin.thinning.search.culprit import Culprit, Setback

DIVIDING = VIEWS | {"aten.split_with_sizes"}


def couple_uses(setback: Setback, culprit: Culprit) -> Constraints | None:
    """Let all axes lose equal numbers whose size is one number that modules keep (in a configuration that they share)."""
    sizes, survivors, graph = setback.proposal.sizes, setback.survivors, setback.graph
    if sizes is None or not setback.failure.fixed:
        return None
    met = {*culprit.op.reads, *culprit.op.results}
    formulas = dict.fromkeys(use.formula for use in sizes.uses if use.value in met)
    couples: dict[int, CoupledAxes] = {}
    for formula in formulas:
        whole = [use for use in sizes.uses if use.formula == formula and (use.start, use.stop) == (0, None)]
        places = {(use.value, use.axis): survivors.along(use.value, use.axis) for use in whole}
        left = {place: int(kept.sum()) for place, kept in places.items() if kept is not None}
        first = next(iter(left), None)
        for place in left if len({*left.values()}) > 1 else ():
            op = graph.producer.get(place[0])
            if first is not None and place != first and op is not None:
                couples[op.index] = CoupledAxes(op.index, *first, *place)
    known = culprit.constraints.coupled.keys() | culprit.constraints.rejected
    new = {op: couple for op, couple in couples.items() if op not in known}
    constraints = _with_couples(culprit.constraints, new)
    return constraints and replace(constraints, new_couples=Provisional(setback.failure.op, tuple(new)))


def couple_view(setback: Setback, culprit: Culprit) -> Constraints | None:
    """Let what a view joins shrink as an input of its module does: Python code may use one size for both."""
    if setback.failure.fixed:
        return None
    start = setback.failure.op
    views = [op for op in setback.graph.ops if start <= op.index <= start + 2]
    return _with_couples(culprit.constraints, _view_couples(views, setback, culprit))


def couple_contraction(setback: Setback, culprit: Culprit) -> Constraints | None:
    """Let the result of a contraction shrink as its input does: Python code may use one size for both."""
    labels, op = setback.proposal.labels, culprit.op
    contraction = labels.contractions.get(op.index)
    if contraction is None or op.index in culprit.constraints.coupled:
        return None
    couple = _input_with_result(op, contraction)
    a, b = labels.values[couple.value][couple.axis], labels.values[couple.other][couple.other_axis]
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)) or a is b or b.size % a.size:
        return None
    alike = setback.alike(op, culprit.constraints)
    return _with_couples(
        culprit.constraints,
        {other.index: _input_with_result(other, labels.contractions[other.index]) for other in alike},
    )


def couple_later_view(setback: Setback, culprit: Culprit) -> Constraints | None:
    """As `couple_view`, for views that the module comes to later: its code may check sizes before it uses them."""
    start = setback.failure.op
    first = next((op for op in setback.graph.ops if op.index >= start), None)
    if first is None or first.name in DIVIDING:
        return None
    later = [op for op in setback.graph.ops if op.index > start and op.source.module == first.source.module]
    couples = _view_couples(later, setback, culprit)
    constraints = _with_couples(culprit.constraints, couples)
    return (
        None if constraints is None else replace(constraints, new_couples=Provisional(start, tuple(couples)))
    )


def _with_couples(constraints: Constraints, couples: Mapping[int, CoupledAxes]) -> Constraints | None:
    return replace(constraints, coupled={**constraints.coupled, **couples}) if couples else None


def _input_with_result(op: Op, contraction: Contraction) -> CoupledAxes:
    axes = (contraction.data, contraction.data_axis, op.results[0], contraction.out_axis)
    return CoupledAxes(op.index, *axes)


def _view_couples(ops: Iterable[Op], setback: Setback, culprit: Culprit) -> dict[int, CoupledAxes]:
    """Return the couple of the first op that has one, and those of its counterparts.

    Other modules of the same class run the same code, so what one has taught holds for all of them.
    """
    for op in ops:
        first = _view_couple(op, setback, culprit)
        if first is not None:
            others = [_view_couple(other, setback, culprit) for other in _counterparts(op, setback)]
            return {couple.op: couple for couple in (first, *others) if couple is not None}
    return {}


def _view_couple(op: Op, setback: Setback, culprit: Culprit) -> CoupledAxes | None:
    """Couple an axis that a view or split makes with a cut axis of the same size that goes into its module."""
    if op.name not in DIVIDING:
        return None
    constraints = culprit.constraints
    for result in op.results:
        for axis, joined in enumerate(setback.proposal.labels.values[result]):
            source = _axis_of_same_size(op, joined, setback)
            if source is not None:
                last, value, data_axis = source
                if last not in constraints.coupled and last not in constraints.rejected:
                    return CoupledAxes(last, value, data_axis, result, axis)
    return None


def _axis_of_same_size(op: Op, joined: Axis, setback: Setback) -> tuple[int, int, int] | None:
    """Find a cut axis of the same size that goes into a contraction of the op's module, with other labels.

    Returns:
        index of the later op of the two (parts of a weight are there before what they are multiplied with), value, axis.
    """
    labels, of_label = setback.proposal.labels, setback.survivors.components.of_label
    if not isinstance(joined, np.ndarray):
        return None
    for other in setback.graph.ops:
        contraction = labels.contractions.get(other.index)
        if contraction is None or not other.source.module.startswith(op.source.module):
            continue
        if other.index >= op.index and op.name in VIEWS:
            continue
        vector = labels.values[contraction.data][contraction.data_axis]
        if isinstance(vector, np.ndarray) and vector.size == joined.size:
            different = not np.array_equal(of_label[vector], of_label[joined])
            if different and setback.survivors.along(contraction.data, contraction.data_axis) is not None:
                return max(op.index, other.index), contraction.data, contraction.data_axis
    return None


def _counterparts(op: Op, setback: Setback) -> list[Op]:
    """Return the ops of the same kind that have the same place in other modules of the same class."""
    own = type(setback.proposal.traced.modules.get(op.source.module))
    places: dict[str, list[Op]] = {}
    for other in setback.of_kind(op):
        places.setdefault(other.source.module, []).append(other)
    place = places.pop(op.source.module).index(op)
    return [
        ops[place]
        for path, ops in places.items()
        if place < len(ops) and type(setback.proposal.traced.modules.get(path)) is own
    ]
