"""Which channels go: targets, importance and selection over the groups that the channel graph shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from torchthin.dependency.components import Grouping, producers
from torchthin.dependency.groups import Group
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
from torchthin.selection.channels import select_channels
from torchthin.selection.decision import Decision
from torchthin.selection.masks import axis_mask, channel_masks
from torchthin.selection.targets import Target, named

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """The groups that a selection decides about."""

    groups: tuple[Group, ...]
    axes: Mapping[str, int]
    """Filter axis of every weight that makes channels."""
    targets: frozenset[str]
    """Weights whose filters are pruned; others are masked where they share a group with one."""


@dataclass
class ByImportance:
    """A decision by importance: per group or globally the least important channels go.

    A group is decided about when a target makes its channels and nothing that is kept does. All weights that make the
    group's channels are masked together: coupled layers share one decision.
    """

    model: nn.Module
    targets: Iterable[Target]
    kept: frozenset[str]
    """Weights kept whole."""
    target_sparsity: float
    scope: str = "group"
    criterion: str = "l1"
    patterns: tuple[str, ...] = ()
    """Patterns of weight or module names: what they name and makes channels is a target too, whatever its layer."""
    derived: Mapping[str, DerivedWeight] = field(default_factory=dict)
    axes: dict[str, int] = field(default_factory=dict)
    """Filter axis of every weight that makes channels, and of what is masked instead, known after the first call."""
    chosen: Chosen | None = None
    """What was decided about in the last call."""
    keep_at_least: float = 0.0
    """Share of every group that stays with scope="global"."""
    measure: Measure | None = None
    """The model on data, for criteria that need it."""
    seed: int = 0
    round_to: int = 1
    """What stays of every axis that is cut is a multiple of it."""
    ranking: Ranking | None = None
    """The scores of the last call."""

    def __call__(self, grouping: Grouping, labels: Labels) -> Decision:
        """Select over the groups as they are now."""
        # Buffers too: a layer under the masks of torch.nn.utils.prune makes its channels with mask and weight.
        weights = dict(state_tensors(self.model)) | {name: c.values for name, c in self.derived.items()}
        targets = {target.name: target.axis for target in self.targets}
        made = producers(labels)
        targets |= {
            name: axis for name, axis in made.items() if named(name, self.patterns) and name not in targets
        }
        axes = {**made, **targets}
        self.axes = {**axes, **{c.masked: c.axis for c in self.derived.values() if c.masked}}
        groups = [
            group
            for group in maskable(grouping.groups.groups, axes, self.derived)
            if makers(group, axes) & targets.keys() and not makers(group, axes) & self.kept
        ]
        self.chosen = Chosen(tuple(groups), axes, frozenset(targets))
        measured = None if self.measure is None else self.measure.at(grouping, labels, axes)
        self.ranking = ranked(groups, weights, axes, self.criterion, measured, self.seed)
        keeps = self.select(groups, self.ranking.scores)
        return Decision(
            keeps, masks_of(groups, keeps, self.model, axes, targets, self.derived, views=True), silence=True
        )

    def select(self, groups: Sequence[Group], scores: Mapping[str, FloatArray]) -> dict[str, BoolArray]:
        """Return which channels of every group stay."""
        return select_channels(
            groups,
            scores,
            self.target_sparsity,
            self.scope,
            keep_at_least=self.keep_at_least,
            absolute=self.ranking is not None and self.ranking.absolute,
            round_to=self.round_to,
        )


def maskable(
    groups: Iterable[Group], axes: Mapping[str, int], derived: Mapping[str, DerivedWeight]
) -> list[Group]:
    """Return the groups whose makers can all be masked."""
    stuck = {name for name, item in derived.items() if item.masked is None}
    return [group for group in groups if not makers(group, axes) & stuck]


def makers(group: Group, axes: Mapping[str, int]) -> set[str]:
    """Return the weights that make the channels of a group."""
    return {member.parameter for member in group.members if is_filter_member(member, axes)}


def masks_of(
    groups: Iterable[Group],
    keeps: Mapping[str, BoolArray],
    model: nn.Module,
    axes: Mapping[str, int],
    targets: Iterable[str],
    derived: Mapping[str, DerivedWeight] | None = None,
    *,
    views: bool = False,
) -> dict[str, Tensor]:
    """Return the masks of all targets and of every other weight that makes a decided group's channels.

    `derived`: the derived weights of the model if they are known already. `views`: see `channel_masks`.
    """
    decided = [group for group in groups if group.name in keeps]
    named = {name for group in decided for name in makers(group, axes)} | set(targets)
    filters = {name: axes[name] for name in axes if name in named}
    masks = channel_masks(decided, keeps, model, {**filters, **state_biases(model, filters)}, views=views)
    return masks_of_sources(masks, model, derived_weights(model) if derived is None else derived)


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
class DeadChannels:
    """A decision for a model that is masked already: every channel goes whose weights are all zero."""

    effective: Mapping[str, Tensor]
    """Values to look at, by parameter name; see `effective_weights`."""

    def __call__(self, grouping: Grouping, labels: Labels) -> Decision:
        """Look for dead channels in the groups as they are now."""
        axes = producers(labels)
        keeps = {}
        for group in grouping.groups.groups:
            made = [member for member in group.members if is_filter_member(member, axes)]
            if not made:
                continue
            alive = np.zeros(group.size, np.bool_)
            for member in made:
                weight = self.effective[member.parameter].detach()
                rows = (weight.movedim(member.axis, 0).flatten(1) != 0).any(1).cpu().numpy()
                found = rows[member.indices].any(axis=1)
                alive[slice(None) if member.channels is None else member.channels] |= found
            keeps[group.name] = _allowed(group, alive)
        return Decision(keeps, {})


def effective_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the values of all parameters and buffers as the model uses them.

    Where a weight is computed from a parameter of its own shape (masks of ``torch.nn.utils.prune``, weight_norm,
    parametrizations), the computed value stands under the parameter's name.

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
    """Which channels stay when the dead ones go, as far as balances allow and something stays."""
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
