"""What failed trials have taught, and the next proposal: labels, groups, selection and recipe that keep to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from torchthin.dependency.components import Grouping, find_groups
from torchthin.dependency.propagate import CoupledAxes, FrozenAxis, Labels, propagate
from torchthin.dependency.registry import SplitChoice
from torchthin.graph.opgraph import OpGraph, SizeUses
from torchthin.graph.trace import Traced, collection_paused
from torchthin.selection.selection import Select, Selection
from torchthin.thinning.attributes import has_known_sizes, sized_attributes
from torchthin.thinning.recipe import Recipe, kept_indices
from torchthin.thinning.survivors import Survivors

Attribute = tuple[str, str]
"""Path of a module and name of an integer attribute."""
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
    frozen: Mapping[tuple[int, int, int], FrozenAxis] = field(default_factory=dict)
    """By op, value and axis."""
    coupled: Mapping[int, CoupledAxes] = field(default_factory=dict)
    """By the op after which both axes exist."""
    attributes: Mapping[Attribute, tuple[int, int]] = field(default_factory=dict)
    """Attribute -> (value, axis) whose size it follows."""
    unscaled: frozenset[int] = frozenset()
    """Ops that multiply with a number which depends on a size, and for which no layer may be scaled."""
    zero_inputs: frozenset[int] = frozenset()
    """Ops that removed channels must reach as zeros: biases on the way are masked."""
    rejected: frozenset[Attribute | int] = frozenset()
    """Attributes, and ops of couples, that did not help."""
    new_attributes: Provisional[Attribute] = Provisional()
    new_couples: Provisional[int] = Provisional()
    failures: Mapping[tuple[object, ...], int] = field(default_factory=dict)
    """How often ops of a kind were found to be the culprit."""

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
    """Those that were given, and the attributes that are expected to follow a choice of whole heads."""
    labels: Labels
    grouping: Grouping
    selection: Selection
    recipe: Recipe
    survivors: Survivors
    sized: frozenset[Attribute]
    """Attributes that follow from the shapes of their module's parameters."""
    sizes: SizeUses | None
    """What the model's code does with integer attributes, where axes are divided."""

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """The masks of all weights and biases."""
        return {**self.selection.masks, **self.selection.masked_biases}

    @property
    def factors(self) -> dict[int, float]:
        """Op index -> the number that it multiplies with, where a layer may be scaled if the number changes."""
        known = {} if self.sizes is None else self.sizes.factors
        return {op: factor for op, factor in known.items() if op not in self.constraints.unscaled}

    @property
    def is_doubtful(self) -> bool:
        """Whether the proposal rests on choices that only a comparison can confirm."""
        return bool(self.labels.split_choices or self.constraints.attributes or self.constraints.coupled)


@collection_paused()
def propose(
    traced: Traced, select: Select, constraints: Constraints, read_sizes: Callable[[], SizeUses]
) -> Proposal:
    """Label, group, select and write the recipe under `constraints`.

    Args:
        traced: the full-size model and its record.
        select: says which channels of every group are kept.
        constraints: what failed trials have taught.
        read_sizes: tells what the model's code does with integer attributes; asked where axes are divided.
    """
    tensors, modules = traced.tensors, traced.modules
    labels = propagate(
        traced.graph, constraints.splits, constraints.frozen.values(), constraints.coupled.values()
    )
    constraints = replace(constraints, attributes=_with_heads(constraints, labels, modules))
    grouping = find_groups(labels)
    selection = select(grouping, labels)
    shapes, keep = kept_indices(grouping.groups.groups, selection.keeps, tensors)
    removed = np.zeros(grouping.components.reason.size, np.bool_)
    for name, kept in selection.keeps.items():
        removed[grouping.channels[name][~kept]] = True
    survivors = Survivors(labels, grouping.components, removed)
    selection = replace(selection, masked_biases=_bias_masks(constraints.zero_inputs, survivors, tensors))
    cuts = Recipe(shapes, keep)
    attributes = sized_attributes(traced.model, cuts)
    sized = frozenset((path, name) for path, values in attributes.items() for name in values)
    sizes = read_sizes() if labels.split_choices else None
    used = _used_as_sizes(sizes, survivors, cuts, modules) if sizes is not None else ()
    for path, name, size in (*used, *_following(constraints.attributes, survivors, modules)):
        attributes.setdefault(path, {})[name] = size
    recipe = Recipe(shapes, keep, attributes)
    return Proposal(traced, constraints, labels, grouping, selection, recipe, survivors, sized, sizes)


def _bias_masks(
    ops: frozenset[int], survivors: Survivors, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Mask the biases of removed channels on their way to the ops that must see zeros."""
    contractions = survivors.labels.contractions
    met = [contractions[op] for op in sorted(ops & contractions.keys())]
    removed = [
        survivors.removed_along(item.data, item.data_axis)
        for item in met
        if survivors.along(item.data, item.data_axis) is not None
    ]
    comps = np.unique(np.concatenate([np.zeros(0, np.int64), *removed]))
    masks = {}
    for name, axes in survivors.labels.state.items():
        if len(axes) == 1 and isinstance(axes[0], np.ndarray) and isinstance(tensors[name], nn.Parameter):
            hit = np.isin(survivors.components.of_label[axes[0]], comps)
            if hit.any():
                masks[name] = torch.from_numpy(~hit).to(tensors[name].device)
    return masks


def _following(
    attributes: Mapping[Attribute, tuple[int, int]], survivors: Survivors, modules: Mapping[str, nn.Module]
) -> Iterator[tuple[str, str, int]]:
    """Yield the attributes that follow an axis which is cut, with their new values."""
    for (path, name), (value, axis) in attributes.items():
        kept = survivors.along(value, axis)
        if kept is not None:
            yield path, name, getattr(modules[path], name) * int(kept.sum()) // kept.size


def _used_as_sizes(
    sizes: SizeUses, survivors: Survivors, recipe: Recipe, modules: Mapping[str, nn.Module]
) -> Iterator[tuple[str, str, int]]:
    """Yield attributes that the code was seen to use as sizes, but none that would need two values."""
    wanted: dict[Attribute, set[int]] = {}
    for use in sizes.uses:
        kept = survivors.along(use.value, use.axis)
        size = survivors.labels.graph.values[use.value].shape[use.axis] if kept is None else int(kept.sum())
        wanted.setdefault((use.module, use.attribute), set()).add(size)
    for path, name in sizes.compared - wanted.keys():
        met = Counter(recipe.sizes_after(path, getattr(modules[path], name)))
        wanted[path, name] = {size for size, _ in met.most_common(1)}
    for (path, name), found in wanted.items():
        module = modules[path]
        if len(found) == 1 and found != {getattr(module, name)} and not has_known_sizes(module):
            yield path, name, found.pop()


def _with_heads(
    constraints: Constraints, labels: Labels, modules: Mapping[str, nn.Module]
) -> dict[Attribute, tuple[int, int]]:
    """Return the attributes that follow, with those named after heads where whole heads or equal parts of all may be removed.

    A view may flatten the heads together with the batch; the attribute then shrinks in the same proportion.
    """
    found = dict(constraints.attributes)
    for site in labels.split_choices:
        units = [candidate for candidate in site.candidates if candidate.startswith("unit ")]
        unit, result = site.candidates[site.chosen], site.op.outputs[0]
        module = modules.get(site.op.source.module)
        if unit not in units or result is None or module is None:
            continue
        axis, vector = _divided_axis(labels, site, result.value)
        sizes = {vector.size, np.unique(vector).size}
        for name, number in vars(module).items():
            key = (site.op.source.module, name)
            fits = "head" in name and type(number) is int and number in sizes
            fits = fits and key not in constraints.rejected
            if fits and _is_within_head(name) == (unit == max(units)):
                found.setdefault(key, (result.value, axis))
    return found


def _divided_axis(labels: Labels, site: SplitChoice, value: int) -> tuple[int, npt.NDArray[np.int64]]:
    """Return the first axis of a value that has labels of the site, and its labels."""
    for axis, vector in enumerate(labels.values[value]):
        if isinstance(vector, np.ndarray) and np.isin(vector, site.labels).any():
            return axis, vector
    return 0, np.zeros(0, np.int64)


def _is_within_head(name: str) -> bool:
    """Whether an attribute named after heads is the size of one, not their number."""
    return any(word in name for word in ("dim", "size", "width", "channels"))
