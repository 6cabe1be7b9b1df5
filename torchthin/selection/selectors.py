"""Selectors: from groups to a selection. A selector is a value that can be called any number of times.

`ImportanceSelector` finds the groups that targets produce, scores their channels, and asks a rule which are kept: `RatioRule`
here, `BudgetRule` in `budget.py`, the chip's rule in `torchthin.max7800x`. `DeadChannelSelector` reads what is zero already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from torchthin.config import Target
from torchthin.dependency.components import Grouping
from torchthin.dependency.groups import Group, IntArray, Member
from torchthin.dependency.kinds import Kinds, kinds_of
from torchthin.dependency.producers import makers, producers
from torchthin.dependency.propagate import Labels
from torchthin.graph.clone import modules_of, state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.parametrized import (
    DerivedWeight,
    derived_weights,
    layer_of,
    mirrored_tensors,
    recompute_,
)
from torchthin.importance.scores import Ranking, is_filter_member, ranked
from torchthin.importance.statistics import Measure
from torchthin.selection.balance import balanced_keep, must_stay
from torchthin.selection.channels import by_share, select_channels, shares_at
from torchthin.selection.kind_choice import Chosen, KindChoice, evened
from torchthin.selection.masks import axis_mask, channel_masks
from torchthin.selection.prunable_weights import PrunableWeights
from torchthin.selection.selection import BoolArray, Keeps, Selection
from torchthin.selection.weight_names import matches_any

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """What a rule chooses among."""

    groups: tuple[Group, ...]
    ranking: Ranking
    axes: Mapping[str, int]
    """Filter axis of every weight that produces channels."""
    model: nn.Module
    grouping: Grouping
    labels: Labels
    chosen: Chosen
    """Their shares and kinds."""

    @property
    def scores(self) -> Mapping[str, FloatArray]:
        """Group name -> (channels,), higher = keep."""
        return self.ranking.scores


class Rule(Protocol):
    """How much of every group is kept."""

    def choose(self, among: Candidates) -> tuple[Keeps, Any]:
        """Return which channels are kept, and what else a report should say."""


@dataclass(frozen=True)
class RatioRule:
    """Remove the target's share, of every group or of all together."""

    target: Target
    round_to: int = 1
    even: bool = False

    def choose(self, among: Candidates) -> tuple[Keeps, Any]:
        """Return the selection at the target's share."""
        shares = shares_at(among.groups, among.chosen.shares, self.target.share)
        keeps = by_share(among.groups, shares, partial(self._select, among))
        if self.even:
            keeps = evened(among.groups, keeps, among.scores, among.chosen.kinds, self.round_to)
        return keeps, None

    def _select(self, among: Candidates, groups: Sequence[Group], share: float) -> Keeps:
        return select_channels(
            groups,
            among.scores,
            share,
            self.target.scope,
            keep_at_least=self.target.floor,
            absolute=among.ranking.absolute,
            round_to=self.round_to,
        )


@dataclass(frozen=True)
class ImportanceSelector:
    """Select by importance.

    A group is decided about when a target produces its channels and no excluded weight does. All weights that produce the
    group's channels are masked together: coupled layers share one decision.
    """

    model: nn.Module
    targets: PrunableWeights
    rule: Rule
    criterion: str = "l1"
    statistics: Measure | None = None
    """The model on data, for criteria that need it."""
    seed: int = 0
    choice: KindChoice = field(default_factory=KindChoice)
    """What is cut by its kind."""

    def __call__(self, grouping: Grouping, labels: Labels) -> Selection:
        """Select among the groups as they are now."""
        among = self.candidates(grouping, labels)
        keeps, facts = self.rule.choose(among)
        derived = self.targets.derived
        targets = self._wanted(among.axes) - among.chosen.left
        masks = masks_of(among.groups, keeps, self.model, among.axes, targets, derived, views=True)
        masked_axes = {**among.axes, **{c.masked: c.axis for c in derived.values() if c.masked}}
        return Selection(
            keeps,
            masks,
            among.groups,
            among.axes,
            masked_axes,
            targets,
            among.ranking,
            masks_makers=True,
            kinds=among.chosen.kinds,
            shares=among.chosen.shares,
            spared=among.chosen.spared,
            facts=facts,
        )

    def candidates(self, grouping: Grouping, labels: Labels) -> Candidates:
        """Return the groups to decide about, with the scores of their channels."""
        # Buffers too: a layer under the masks of torch.nn.utils.prune makes its channels with mask and weight.
        derived = self.targets.derived
        weights = dict(state_tensors(self.model)) | {name: c.values for name, c in derived.items()}
        made = producers(labels)
        axes = {**made, **{target.name: target.axis for target in self.targets.targets}}
        wanted, kept = self._wanted(made), self.targets.kept
        read = makers(labels).only_read if kept else frozenset()
        groups = [
            group
            for group in maskable(grouping.groups.groups, axes, derived)
            if producers_of(group, axes) & wanted
            and not any(m.parameter in kept and (m.parameter, m.axis) not in read for m in group.members)
        ]
        kinds = kinds_of(grouping, labels) if self.choice.decides else Kinds({}, {})
        chosen = self.choice.among(groups, kinds, axes)
        groups = [group for group in groups if group.name in chosen.cut]
        measured = None if self.statistics is None else self.statistics.at(grouping, labels, axes)
        ranking = ranked(groups, weights, axes, self.criterion, measured, self.seed)
        return Candidates(tuple(groups), ranking, axes, self.model, grouping, labels, chosen)

    def _wanted(self, names: Iterable[str]) -> frozenset[str]:
        """Return the weights whose filters are pruned: the targets, and what else of `names` their patterns match."""
        found = {name for name in names if matches_any(name, self.targets.patterns)}
        return frozenset(found | {target.name for target in self.targets.targets})


def maskable(
    groups: Iterable[Group], axes: Mapping[str, int], derived: Mapping[str, DerivedWeight]
) -> list[Group]:
    """Return the groups whose producers can all be masked."""
    stuck = {name for name, item in derived.items() if item.masked is None}
    return [group for group in groups if not producers_of(group, axes) & stuck]


def producers_of(group: Group, axes: Mapping[str, int]) -> set[str]:
    """Return the weights that produce the channels of a group."""
    return {member.parameter for member in group.members if is_filter_member(member, axes)}


def masks_of(
    groups: Iterable[Group],
    keeps: Keeps,
    model: nn.Module,
    axes: Mapping[str, int],
    targets: Iterable[str],
    derived: Mapping[str, DerivedWeight],
    *,
    views: bool = False,
) -> dict[str, Tensor]:
    """Return the masks of all targets and of every other weight that produces a decided group's channels.

    `views`: see `channel_masks`.
    """
    decided = [group for group in groups if group.name in keeps]
    named = {name for group in decided for name in producers_of(group, axes)} | set(targets)
    filters = {name: axes[name] for name in axes if name in named}
    masks = channel_masks(decided, keeps, model, {**filters, **state_biases(model, filters)}, views=views)
    return masks_of_sources(masks, model, derived)


def state_biases(model: nn.Module, filters: Iterable[str]) -> dict[str, int]:
    """Return the biases of recurrent layers whose weights are masked -> their filter axis.

    A hidden state whose weights are zero goes on moving by its biases, differently at every step: it is dead only
    without them.
    """
    found = {}
    for path, module in modules_of(model):
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            prefix = f"{path}." if path else ""
            names = [name for name, _ in module.named_parameters(recurse=False)]
            if any(f"{prefix}{name}" in filters for name in names):
                found.update({f"{prefix}{name}": 0 for name in names if name.startswith("bias_")})
    return found


def masks_of_sources(
    masks: Mapping[str, Tensor], model: nn.Module, derived: Mapping[str, DerivedWeight]
) -> dict[str, Tensor]:
    """Return masks of whole filters with those of computed weights moved to the parameters to mask in their place."""
    others = {item.weight.rpartition(".")[0] for item in derived.values()}
    found = {}
    for name, mask in masks.items():
        item = derived.get(name)
        if item is None and layer_of(name) in others:
            continue  # what computes the weight with its original, as weight_mask does
        if item is None or item.masked is None or item.masked == name:
            found[name] = mask
        else:
            rows = mask.movedim(item.axis, 0).flatten(1).any(1)
            found[item.masked] = axis_mask(rows, model.get_parameter(item.masked), item.axis)
    return found


@dataclass(frozen=True)
class DeadChannelSelector:
    """Select in a model that is masked already: every channel is removed that nothing makes.

    A channel lives while something that makes it is not zero: a filter, a column of an embedding, a position, the weight of a
    layer norm. Biases do not count: what they make of a dead channel is a constant. It is dead, too, where nothing reads it, and
    behind a BatchNorm whose scale is zero; whether it really is constant then, the trial finds out.
    """

    effective: Mapping[str, Tensor]
    """Values to look at, by parameter name; see `effective_weights`."""
    threshold: float = 0.0
    """A filter counts as zero where no weight is larger, and so does a scale."""
    masks_makers: bool = False
    """Filters and readers alone decide; what else makes a dead channel is masked with it."""

    def __call__(self, grouping: Grouping, labels: Labels) -> Selection:
        """Look for dead channels in the groups as they are now."""
        axes, makes = producers(labels), makers(labels)
        made = set(axes.items()) if self.masks_makers else makes.weights | set(axes.items())
        keeps = {}
        for group in grouping.groups.groups:
            if not any((member.parameter, member.axis) in made for member in group.members):
                continue
            alive = self._large(group, made)
            if not self.masks_makers:
                alive &= self._passed(group, makes.scales)
            read = {axis for axis in makes.read if axis not in made}
            alive &= self._large(group, read) | ~self._on(group, read)
            keeps[group.name] = _allowed(group, alive)
        masks = self._small(grouping, keeps, made | makes.scales) if self.threshold else {}
        return Selection(keeps, masks, axes=axes, masks_makers=self.masks_makers)

    def _small(self, grouping: Grouping, keeps: Keeps, among: Set[tuple[str, int]]) -> dict[str, Tensor]:
        """Return masks of what counts as zero and is not."""
        masks: dict[str, Tensor] = {}
        for group in grouping.groups.groups:
            for member in group.members if group.name in keeps else ():
                if (member.parameter, member.axis) in among:
                    weight = self.effective[member.parameter]
                    kept = torch.ones(weight.shape[member.axis], dtype=torch.bool)
                    dead = ~keeps[group.name][_channels_of(member)] & ~self._rows(member)
                    kept[torch.from_numpy(member.indices[dead].reshape(-1))] = False
                    mask = axis_mask(kept, weight, member.axis)
                    masks[member.parameter] = masks.get(member.parameter, mask) & mask
        return masks

    def _large(self, group: Group, among: Set[tuple[str, int]]) -> BoolArray:
        """Return which channels have a number above the threshold in a member among some."""
        found = np.zeros(group.size, np.bool_)
        for member in group.members:
            if (member.parameter, member.axis) in among:
                found[_channels_of(member)] |= self._rows(member)
        return found

    def _passed(self, group: Group, scales: Set[tuple[str, int]]) -> BoolArray:
        """Return which channels no scale makes zero."""
        found = np.ones(group.size, np.bool_)
        for member in group.members:
            if (member.parameter, member.axis) in scales:
                found[_channels_of(member)] &= self._rows(member)
        return found

    def _on(self, group: Group, among: Set[tuple[str, int]]) -> BoolArray:
        found = np.zeros(group.size, np.bool_)
        for member in group.members:
            if (member.parameter, member.axis) in among:
                found[_channels_of(member)] = True
        return found

    def _rows(self, member: Member) -> BoolArray:
        tensor = self.effective[member.parameter].detach().movedim(member.axis, 0)
        large = (tensor.reshape(len(tensor), -1).abs() > self.threshold).any(1).cpu().numpy()
        return np.asarray(large[member.indices].any(axis=1))


def _channels_of(member: Member) -> slice | IntArray:
    return slice(None) if member.channels is None else member.channels


def effective_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the values of all parameters and buffers as the model uses them.

    Where a weight is computed from a parameter of its own shape (masks of ``torch.nn.utils.prune``, weight_norm,
    parametrizations), the computed value is under the parameter's name.

    Args:
        model: a copy; what its hooks compute is computed afresh.
    """
    values = {name: tensor.detach() for name, tensor in state_tensors(model)}
    names = {id(tensor): name for name, tensor in state_tensors(model)}
    with evaluation_mode(model):
        recompute_(model)
        for module in model.modules():
            for local, source in mirrored_tensors(module).items():
                used = getattr(module, local)
                if used is not source and used.shape == source.shape and id(source) in names:
                    values[names[id(source)]] = used.detach()
    for item in derived_weights(model).values():
        for name, tensor in values.items():  # the mask of a weight, too, is as dead as the weight
            if layer_of(name) == layer_of(item.original) and tensor.shape == item.values.shape:
                values[name] = item.values
    return values


def _allowed(group: Group, alive: BoolArray) -> BoolArray:
    """Which channels are kept when the dead ones go, as far as balances allow and something is left."""
    dead = int((~alive).sum())
    if not dead:
        return alive
    if group.balances:
        movable = ~alive & ~must_stay(group, alive.astype(np.float64))
        return balanced_keep(group, np.zeros(group.size), dead, movable=movable)
    keep = alive.copy()
    if not alive.any():
        keep[0] = True
    return keep
