"""What failed trials have taught, and the next proposal: labels, groups, selection and recipe that keep to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.dependency.components import Grouping, find_groups
from torchthin.dependency.propagate import CoupledAxes, FrozenAxis, Labels, propagate
from torchthin.graph.kept_integers import kept_value
from torchthin.graph.opgraph import OpGraph, SizeUses
from torchthin.graph.trace import Traced, collection_paused
from torchthin.graph.tracked import Attribute
from torchthin.selection.selection import Select, Selection
from torchthin.thinning.attributes import set_head_widths_, sized_attributes
from torchthin.thinning.followed_sizes import followed_sizes
from torchthin.thinning.maker_masks import with_maker_masks
from torchthin.thinning.recipe import Recipe, kept_indices
from torchthin.thinning.rms_norms import RmsNorm, find_rms_norms
from torchthin.thinning.survivors import Place, Survivors

Key = TypeVar("Key")


@dataclass(frozen=True)
class Provisional(Generic[Key]):
    """Constraints that were added because of one op; where it fails again, they did not help."""

    op: int = -1
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Constraints:
    """What a proposal must keep to. A failed trial leads to a copy that says more; see `repair.py`."""

    splits: Mapping[int, int] = field(default_factory=dict)
    """Op index -> which of the ways to divide an axis there is taken; the first where nothing is said."""
    units: Mapping[int, int] = field(default_factory=dict)
    """Op index -> the axis of its result that comes first where it divides an axis, such as the one that counts heads."""
    frozen: Mapping[Place, FrozenAxis] = field(default_factory=dict)
    """By op, value and axis."""
    coupled: Mapping[int, CoupledAxes] = field(default_factory=dict)
    """By the op after which both axes exist."""
    attributes: Mapping[Attribute, tuple[int, int]] = field(default_factory=dict)
    """Attribute -> (value, axis) whose size it follows."""
    unscaled: frozenset[int] = frozenset()
    """Ops that multiply with a number which depends on a size, and for which no layer may be scaled."""
    zeroed: frozenset[Place] = frozenset()
    """Where removed channels must be zero: all that makes them is masked."""
    unread: frozenset[Place] = frozenset()
    """Where removed channels may hold anything: the weights that read them are masked."""
    exact: bool = False
    """What cannot be removed without changing the masked model's function is kept."""
    add_biases: bool = False
    """A layer without a bias may get one for the constants of removed channels."""
    proof: str = "quick"
    """How much is compared, as in `PruneConfig`."""
    rejected: frozenset[Attribute | int] = frozenset()
    """Attributes, and ops of couples, that did not help."""
    new_attributes: Provisional[Attribute] = Provisional()
    new_couples: Provisional[int] = Provisional()
    failures: Mapping[tuple[object, ...], int] = field(default_factory=dict)
    """How often ops of a kind were found to be the culprit."""

    @classmethod
    def of(cls, config: PruneConfig) -> Constraints:
        """Return what a run asks every proposal to keep to, before anything was tried."""
        return cls(exact=config.exact, add_biases=config.add_biases, proof=config.proof)

    def counted(self, kind: tuple[object, ...]) -> Constraints:
        """Count one more failure of a kind."""
        return replace(self, failures={**self.failures, kind: self.failures.get(kind, 0) + 1})

    def without_attributes(self, index: int, graph: OpGraph) -> Constraints | None:
        """Take back the attributes that were made to follow at an op; None where there are none."""
        made = graph.by_index[index].results if index in graph.by_index else ()
        keys = {key for key, (value, _) in self.attributes.items() if value in made}
        keys |= set(self.new_attributes.keys if self.new_attributes.op == index else ())
        if not keys:
            return None
        attributes = {key: place for key, place in self.attributes.items() if key not in keys}
        rejected = self.rejected | keys
        return replace(self, attributes=attributes, rejected=rejected, new_attributes=Provisional())

    def without_couples(self, index: int) -> Constraints:
        """Take back the couples that were made because of a failure at an op; those made for another op have helped."""
        keys = self.new_couples.keys if self.new_couples.op == index else ()
        coupled = {op: couple for op, couple in self.coupled.items() if op not in keys}
        rejected = self.rejected.union(keys)
        return replace(self, coupled=coupled, rejected=rejected, new_couples=Provisional())


@dataclass(frozen=True)
class Proposal:
    """A recipe and what it rests on."""

    traced: Traced
    constraints: Constraints
    """What it keeps to."""
    labels: Labels
    grouping: Grouping
    selection: Selection
    recipe: Recipe
    survivors: Survivors
    sized: frozenset[Attribute]
    """Attributes that follow from the shapes of their module's parameters."""
    sizes: SizeUses | None
    """What the model's code does with the integers that modules keep; None where it was not seen."""
    rms_norms: tuple[RmsNorm, ...]
    """Norms that stay as they are over fewer channels."""

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """The masks of all that is masked."""
        return self.selection.all_masks

    @property
    def factors(self) -> dict[int, float]:
        """Op index -> the number that it multiplies with, where a layer may be scaled if the number changes."""
        known = self.sizes.factors if self.sizes is not None and self.labels.split_choices else {}
        return {op: factor for op, factor in known.items() if op not in self.constraints.unscaled}

    @property
    def is_doubtful(self) -> bool:
        """Whether the proposal rests on choices that only a comparison can confirm."""
        return bool(self.labels.split_choices or self.constraints.attributes or self.constraints.coupled)


@collection_paused()
def propose(
    traced: Traced, select: Select, constraints: Constraints, read_sizes: Callable[[], SizeUses | None]
) -> Proposal:
    """Label, group, select and write the recipe under `constraints`.

    Args:
        traced: the full-size model and its record.
        select: says which channels of every group are kept.
        constraints: what failed trials have taught.
        read_sizes: tells what the model's code does with integers; asked where the record does not say it, and where axes are
            divided.
    """
    tensors, modules = traced.tensors, traced.modules
    labels = propagate(
        traced.graph,
        constraints.splits,
        constraints.frozen.values(),
        constraints.coupled.values(),
        constraints.units,
    )
    grouping = find_groups(labels)
    selection = select(grouping, labels)
    shapes, keep = kept_indices(grouping.groups.groups, selection.keeps, tensors)
    removed = np.zeros(grouping.components.reason.size, np.bool_)
    for name, kept in selection.keeps.items():
        removed[grouping.channels[name][~kept]] = True
    survivors = Survivors(labels, grouping.components, removed)
    if selection.masks_makers:
        places = constraints.zeroed, constraints.unread
        selection = with_maker_masks(selection, *places, survivors, tensors, traced.derived)
    cuts = Recipe(shapes, keep)
    attributes = sized_attributes(traced.model, cuts)
    sized = frozenset(Attribute(path, name) for path, values in attributes.items() for name in values)
    sizes = read_sizes() if labels.split_choices or not traced.graph.size_uses else traced.graph.size_uses
    followed = followed_sizes(sizes.uses, survivors, modules) if sizes is not None else {}
    for (path, name), size in {**followed, **_following(constraints.attributes, survivors, modules)}.items():
        attributes.setdefault(path, {})[name] = size
    set_head_widths_(attributes, modules)
    norms = find_rms_norms(labels, survivors, modules)
    for place, epsilon in [norm.epsilon for norm in norms if norm.epsilon is not None]:
        attributes.setdefault(place.module, {})[place.path] = epsilon
    recipe = Recipe(shapes, keep, attributes)
    return Proposal(traced, constraints, labels, grouping, selection, recipe, survivors, sized, sizes, norms)


def _following(
    attributes: Mapping[Attribute, tuple[int, int]], survivors: Survivors, modules: Mapping[str, nn.Module]
) -> dict[Attribute, int]:
    """Return the attributes that follow an axis which is cut, with their new values."""
    found = {}
    for attribute, (value, axis) in attributes.items():
        kept = survivors.along(value, axis)
        if kept is not None:
            before = kept_value(modules[attribute.module], attribute.path)
            found[attribute] = before * int(kept.sum()) // kept.size
    return found
