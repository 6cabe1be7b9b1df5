"""From a failed trial to the constraints of the next proposal: an ordered list of remedies, the first that applies is taken.

Some failures name their cause. For others a culprit is looked for, the op at or near the failure that saw a cut axis: an
attribute follows the cut, two axes lose equal numbers, the axis is divided in its next way, and only when nothing else is
left it is frozen, with the failure as the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from torchthin.dependency.propagate import FrozenAxis
from torchthin.dependency.registry import SplitChoice
from torchthin.errors import ProofError
from torchthin.graph.opgraph import BRANCH, Op
from torchthin.graph.tracked import Attribute
from torchthin.thinning.attributes import has_known_sizes
from torchthin.thinning.maker_masks import is_made_by_layers, read_by
from torchthin.thinning.search.constraints import Constraints, Proposal, Provisional
from torchthin.thinning.search.coupled_sizes import (
    couple_contraction,
    couple_later_view,
    couple_uses,
    couple_view,
)
from torchthin.thinning.search.culprit import Culprit, Setback, values_of
from torchthin.thinning.search.outcome import Failure
from torchthin.thinning.survivors import Place, Survivors

WIDEN_AFTER = 2
"""Failures at one source line after which all calls of that line are treated alike."""


Remedy = Callable[[Setback], Constraints | None]
"""Returns the next constraints; None where the remedy does not apply."""


def repaired(failure: Failure, proposal: Proposal) -> Constraints:
    """Return the constraints for the next proposal.

    Raises:
        ProofError: no remedy applies, since no removed channel reaches the op that failed.
    """
    setback = Setback(failure, proposal)
    for remedy in REMEDIES:
        constraints = remedy(setback)
        if constraints is not None:
            return constraints
    raise ProofError(f"The thinned model fails at an op that no removed channel reaches: {failure.text}")


# Remedies for failures that name their cause


def leave_unscaled(setback: Setback) -> Constraints | None:
    """Scale no layer for a number where the model now computes something else."""
    failure, constraints = setback.failure, setback.constraints
    ops = setback.graph.by_index
    module = ops[failure.op].source.module if failure.op in ops else None
    last = failure.op == max(index for index in ops if index < BRANCH)
    wrong = {
        item.op.index
        for item in failure.scalings
        if last or (item.op.index <= failure.op and item.op.source.module == module)
    }
    return replace(constraints, unscaled=constraints.unscaled | wrong) if wrong else None


def mask_makers(setback: Setback) -> Constraints | None:
    """Mask all that makes removed channels which must be zero."""
    return _with_zeroed(setback, setback.constraints, setback.failure.alive)


def mask_readers(setback: Setback) -> Constraints | None:
    """Mask the weights that read removed channels which live on although all that makes them is masked, by other channels."""
    constraints, labels = setback.constraints, setback.proposal.labels
    new = {
        place
        for place in setback.failure.living - constraints.unread
        if read_by(labels, *place) is not None and is_made_by_layers(labels, place[1])
    }
    if not new or not setback.proposal.selection.masks_makers:
        return None
    return replace(constraints, unread=constraints.unread | new)


def keep_living_channels(setback: Setback) -> Constraints | None:
    """Freeze what cannot be made zero: the channels themselves where dead ones are looked for, else the axis."""
    failure, constraints = setback.failure, setback.constraints
    whole = setback.proposal.selection.masks_makers
    kept = {
        key: FrozenAxis(*key, failure.text, None if whole else _joined(places, constraints.frozen.get(key)))
        for key, places in failure.alive.items()
    }
    return replace(constraints, frozen={**constraints.frozen, **kept}) if kept else None


def _joined(places: Sequence[int], before: FrozenAxis | None) -> tuple[int, ...]:
    known = () if before is None or before.places is None else before.places
    return tuple(sorted({*places, *known}))


def freeze_named_axes(setback: Setback) -> Constraints | None:
    """Freeze the axes that the failure names."""
    failure, constraints = setback.failure, setback.constraints
    named = {key: FrozenAxis(*key, failure.text) for key in failure.axes}
    return replace(constraints, frozen={**constraints.frozen, **named}) if named else None


def take_back_attributes(setback: Setback) -> Constraints | None:
    """Where nothing that was cut can be to blame: let the attributes of the last failure be as they were.

    So too where their module now fails before the op that they are for, at one that reads nothing cut.
    """
    failure, made = setback.failure, setback.constraints.new_attributes
    op = setback.graph.by_index.get(failure.op)
    earlier = op is not None and failure.raised and failure.op < made.op and not setback.seen(op)
    path = "" if op is None else f"{op.source.module}."
    inside = any(not key.module or path.startswith(f"{key.module}.") for key in made.keys)
    if setback.culprit is not None and not (earlier and inside):
        return None
    return setback.constraints.without_attributes(made.op, setback.graph)


# Remedies at a culprit


def follow_attribute(setback: Setback, culprit: Culprit) -> Constraints | None:
    """Let an integer attribute of the op's module that equals a cut size follow it."""
    op, constraints = culprit.op, culprit.constraints
    module = setback.proposal.traced.modules.get(op.source.module)
    if module is None or has_known_sizes(module):
        return None
    made = [(value, axis) for value in op.results for axis in setback.survivors.cut_axes(value)]
    taken = constraints.attributes.keys() | constraints.rejected | setback.proposal.sized
    for value, axis in [*made, *culprit.seen]:
        size = setback.graph.values[value].shape[axis]
        for name, number in vars(module).items():
            if type(number) is int and number == size and (op.source.module, name) not in taken:
                return _with_attribute(setback, culprit, name, value, axis)
    return None


def _with_attribute(setback: Setback, culprit: Culprit, name: str, value: int, axis: int) -> Constraints:
    position = values_of(culprit.op).index(value)
    follows = {
        Attribute(other.source.module, name): (values_of(other)[position], axis)
        for other in setback.alike(culprit.op, culprit.constraints)
        if type(getattr(setback.proposal.traced.modules.get(other.source.module), name, None)) is int
    }
    return replace(
        culprit.constraints,
        attributes={**culprit.constraints.attributes, **follows},
        new_attributes=Provisional(culprit.op.index, tuple(follows)),
    )


def divide_otherwise(setback: Setback, culprit: Culprit) -> Constraints | None:
    """Divide an axis that reaches the op in its next way; the last way is to freeze it."""
    survivors, constraints = setback.survivors, culprit.constraints
    comps = np.unique(np.concatenate([survivors.removed_along(*place) for place in culprit.seen]))
    for site in reversed(survivors.labels.split_choices):
        if site.op.index > culprit.op.index or site.chosen >= len(site.candidates) - 2:
            continue
        if np.isin(survivors.components.of_label[site.labels], comps).any():
            counted = constraints.counted(setback.kind(site.op))
            ops = (*setback.alike(site.op, counted), *_of_same_unit(site, survivors))
            splits = {op.index: max(constraints.splits.get(op.index, 0), site.chosen + 1) for op in ops}
            return replace(counted, splits={**constraints.splits, **splits})
    return None


def mask_unread(setback: Setback, culprit: Culprit) -> Constraints | None:
    """Mask what makes channels whose constant was absorbed into a bias that the code may not read."""
    return _with_zeroed(setback, culprit.constraints, setback.failure.unread)


def freeze_fixed(setback: Setback, culprit: Culprit) -> Constraints | None:
    """Freeze the axes to which the code gave another size than what is left of them, and no others."""
    fixed = setback.failure.fixed
    if not fixed or culprit.constraints.frozen.keys() >= set(fixed):
        return None
    op = setback.graph.by_index[fixed[0][0]]
    return _frozen(
        setback, culprit, op, [place[1:] for place in fixed], "a number in the code fixes its size"
    )


def freeze(setback: Setback, culprit: Culprit) -> Constraints:
    """Freeze the cut axes that the op saw."""
    return _frozen(setback, culprit, culprit.op, culprit.seen, setback.failure.text)


def _frozen(
    setback: Setback, culprit: Culprit, op: Op, places: Iterable[tuple[int, int]], text: str
) -> Constraints:
    values = values_of(op)
    positions = [(number, axis) for number, value in enumerate(values) for v, axis in places if v == value]
    frozen = dict(culprit.constraints.frozen)
    for other in setback.alike(op, culprit.constraints):
        values = values_of(other)
        for number, axis in positions:
            if number < len(values):
                key = (other.index, values[number], axis)
                frozen[key] = FrozenAxis(*key, text)
    return replace(culprit.constraints, frozen=frozen)


def _at_culprit(remedy: Callable[[Setback, Culprit], Constraints | None], *, raised: bool = False) -> Remedy:
    """Return a remedy that needs a culprit and, if `raised`, applies only where the model's code raised an exception."""

    def applied(setback: Setback) -> Constraints | None:
        if setback.culprit is None or (raised and not setback.failure.raised):
            return None
        return remedy(setback, setback.culprit)

    return applied


REMEDIES: tuple[Remedy, ...] = (
    leave_unscaled,
    mask_makers,
    mask_readers,
    keep_living_channels,
    freeze_named_axes,
    take_back_attributes,
    _at_culprit(follow_attribute, raised=True),
    _at_culprit(couple_uses),
    _at_culprit(couple_view, raised=True),
    _at_culprit(divide_otherwise),
    _at_culprit(freeze_fixed),
    _at_culprit(couple_contraction, raised=True),
    _at_culprit(couple_later_view, raised=True),
    _at_culprit(mask_unread),
    _at_culprit(freeze),
)


def _with_zeroed(setback: Setback, constraints: Constraints, places: Iterable[Place]) -> Constraints | None:
    new = set(places) - constraints.zeroed
    if not new or not setback.proposal.selection.masks_makers:
        return None
    return replace(constraints, zeroed=constraints.zeroed | new)


def _of_same_unit(site: SplitChoice, survivors: Survivors) -> list[Op]:
    """Return ops that divide tied channels in the same way: queries, keys and values change their unit together."""
    if not site.candidates[site.chosen].startswith("unit "):
        return []
    alike = [
        other
        for other in survivors.labels.split_choices
        if (other.candidates, other.chosen) == (site.candidates, site.chosen)
    ]
    comps: list[npt.NDArray[np.int64]] = [survivors.components.of_label[other.labels] for other in alike]
    met = survivors.components.of_label[site.labels]
    found: set[int] = set()
    while new := {n for n, own in enumerate(comps) if n not in found and np.isin(own, met).any()}:
        found |= new
        met = np.unique(np.concatenate([met, *(comps[n] for n in new)]))
    return [alike[n].op for n in sorted(found)]
