"""Masks of whole channels that grow step by step: groups are found once, every step scores and selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from torchthin.config import PruneConfig, Ratio
from torchthin.dependency.groups import Group
from torchthin.errors import ConfigError, InputError
from torchthin.graph.clone import state_tensors
from torchthin.graph.parametrized import DerivedWeight, derived_weights
from torchthin.importance.channels import Measured
from torchthin.importance.scores import Ranking, ranked
from torchthin.importance.statistics import Measure
from torchthin.io.distributed import broadcast
from torchthin.pruning.gradual.group_cuts import cut_group, group_from_dict, group_to_dict, remaining_channels
from torchthin.pruning.gradual.mask_state import UNTHINNED
from torchthin.pruning.gradual.sharding import WholeTensors, is_sharded
from torchthin.pruning.selection_notes import asked_of_groups
from torchthin.report.from_masks import Filters
from torchthin.report.prune_report import share
from torchthin.selection.channels import FloatArray, by_share, select_channels, shares_at
from torchthin.selection.kind_choice import evened
from torchthin.selection.masks import axis_mask
from torchthin.selection.selection import BoolArray, Keeps, Selection
from torchthin.selection.selectors import masks_of
from torchthin.thinning.recipe import Recipe


@dataclass(frozen=True)
class _Gradients(Measured):
    """Gradients, and nothing that needs the record of a run: it was made once, before training."""

    statistics: Measure
    axes: Mapping[str, int]
    criterion: str

    def effects(self, parameter: str, axis: int) -> FloatArray:
        return self.statistics.effects(parameter, axis, self.axes)

    def magnitudes(self, group: Group) -> FloatArray:
        self._refuse()

    def removal_errors(self, group: Group) -> Tensor | None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"The criterion {self.criterion!r} of Pruner must be one of weights or gradients, such as l1 or taylor: values "
            "inside the model are followed once, before training. torchthin.prune takes it."
        )


@dataclass(frozen=True)
class ChannelMasks:
    """Which channels are kept; see `MaskState`."""

    groups: tuple[Group, ...]
    """The groups that the run decides about, of the full-size model."""
    axes: Mapping[str, int]
    """Filter axis of every weight that produces channels."""
    targets: frozenset[str]
    """Weights whose filters are pruned; others are masked where they share a group with one."""
    kept: Keeps
    """Group name -> which channels of the full-size group are neither masked nor removed."""
    maker_axes: frozenset[tuple[str, int]] = frozenset()
    """Name and axis of what else is masked with its channels (biases, embeddings)."""
    derived: Mapping[str, DerivedWeight] = field(default_factory=dict)
    """The model's derived weights; their values may be those of an earlier step."""
    statistics: Measure | None = None
    """Of the model before the first step; None where the criterion needs no data."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Group name -> what its channels are."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Group name -> share that is asked for at the end, where shares were given by kind."""
    recipe: Recipe = UNTHINNED

    @cached_property
    def _present(self) -> Keeps:
        """Group name -> which channels of the full-size group the current model has."""
        return {group.name: remaining_channels(group, self.recipe) for group in self.groups}

    @cached_property
    def _current_groups(self) -> tuple[Group, ...]:
        return tuple(cut_group(group, self.recipe, self._present[group.name]) for group in self.groups)

    @property
    def sparsity(self) -> float:
        """Share of the full-size groups' channels that are masked or removed."""
        pruned = sum(int((~kept).sum()) for kept in self.kept.values())
        return share(pruned, sum(kept.size for kept in self.kept.values()))

    def grow(self, model: nn.Module, config: PruneConfig, sparsity: float) -> ChannelMasks:
        """Score the channels that are there and mask the least important, as many as `sparsity` asks for."""
        ranking = self.ranking(model, config)
        scores = {name: self._full_size(name, each) for name, each in ranking.scores.items()}
        select = partial(
            select_channels,
            scores=scores,
            scope=config.target.scope,
            previous=self.kept,
            keep_at_least=config.target.floor,
            absolute=ranking.absolute,
            round_to=config.target.multiple if isinstance(config.target, Ratio) else 1,
        )
        shares = shares_at(self.groups, self.shares, sparsity)
        found = by_share(self.groups, shares, lambda same, share: select(same, target_sparsity=share))
        if isinstance(config.target, Ratio) and config.target.even:
            first = {name: np.where(self.kept[name], each, -np.inf) for name, each in scores.items()}
            found = evened(self.groups, found, first, self.kinds, config.target.multiple)
        # Where equal numbers are removed from parts, more in all can mean fewer of one part: such a step is left out.
        kept = {
            name: before if (found[name] & ~before).any() else found[name]
            for name, before in self.kept.items()
        }
        return replace(self, kept=_of_rank_0(kept, next(model.parameters()).device))

    def ranking(self, model: nn.Module, config: PruneConfig) -> Ranking:
        """Return the scores of the current model's groups."""
        derived = derived_weights(model) if self.derived else {}
        weights = WholeTensors(model, {name: item.values for name, item in derived.items()})
        measured = None if self.statistics is None else self._gradients(model, derived, config)
        return ranked(self._current_groups, weights, self.axes, config.ranked_by, measured, config.seed)

    def _gradients(
        self, model: nn.Module, derived: Mapping[str, DerivedWeight], config: PruneConfig
    ) -> Measured:
        if any(is_sharded(parameter) for parameter in model.parameters()):
            raise InputError(
                f"The criterion {config.ranked_by!r} of Pruner cannot look at a sharded model: its gradients are spread. "
                "Use DistributedDataParallel, or a criterion that looks at weights."
            )
        assert self.statistics is not None
        return _Gradients(self.statistics.of(model, derived), self.axes, config.ranked_by)

    def _full_size(self, name: str, scores: FloatArray) -> FloatArray:
        """Return scores of the full-size group: what was removed scores 0, as what is masked does."""
        full = np.zeros(self._present[name].size)
        full[self._present[name]] = scores
        return full

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of the current model."""
        kept = {name: kept[self._present[name]] for name, kept in self.kept.items()}
        return self._masks(self._current_groups, kept, model)

    def full_size_masks(self, full_size: nn.Module) -> dict[str, Tensor]:
        """Return masks of the full-size model."""
        return self._masks(self.groups, self.kept, full_size)

    def _masks(self, groups: Sequence[Group], keeps: Keeps, model: nn.Module) -> dict[str, Tensor]:
        masks = masks_of(groups, keeps, model, self.axes, self.targets, self.derived)
        tensors = dict(state_tensors(model)) if self.maker_axes else {}
        for name, axis in sorted(self.maker_axes):
            kept = torch.ones(tensors[name].shape[axis], dtype=torch.bool)
            for group in groups:
                for member in group.members:
                    if (member.parameter, member.axis) == (name, axis):
                        kept[torch.from_numpy(member.removed(keeps[group.name]))] = False
            mask = axis_mask(kept, tensors[name], axis)
            masks[name] = masks[name] & mask if name in masks else mask
        return masks

    def thinned(self, recipe: Recipe) -> ChannelMasks:
        """Return the state after a thinning; a channel that was removed counts as masked."""
        after = replace(self, recipe=self.recipe.then(recipe))
        return replace(after, kept={name: kept & after._present[name] for name, kept in self.kept.items()})

    def asked(self, config: PruneConfig) -> tuple[dict[str, Filters], int]:
        """Return what the target asks for, per weight and in all."""
        masked = {item.masked: item.axis for item in self.derived.values() if item.masked}
        axes = {**self.axes, **masked}
        decided = Selection(self.kept, groups=self.groups, masked_axes=axes, shares=self.shares)
        return asked_of_groups(decided, config, axes)

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain types."""
        return {
            "groups": [group_to_dict(group) for group in self.groups],
            "axes": dict(self.axes),
            "targets": sorted(self.targets),
            "kept": {name: torch.from_numpy(kept.copy()) for name, kept in self.kept.items()},
            "maker_axes": [list(item) for item in sorted(self.maker_axes)],
            "recipe": self.recipe.to_dict(),
        }

    def restored(self, entry: Mapping[str, Any]) -> ChannelMasks:
        """Return the state that `to_dict` wrote."""
        return replace(
            self,
            groups=tuple(group_from_dict(group) for group in entry["groups"]),
            axes=entry["axes"],
            targets=frozenset(entry["targets"]),
            kept={name: tensor.cpu().numpy() for name, tensor in entry["kept"].items()},
            maker_axes=frozenset((name, axis) for name, axis in entry["maker_axes"]),
            recipe=Recipe.from_dict(entry["recipe"]),
        )


def _of_rank_0(keeps: dict[str, BoolArray], device: torch.device) -> dict[str, BoolArray]:
    """Return what rank 0 has decided."""
    if not keeps:
        return {}
    joined = torch.from_numpy(np.concatenate(list(keeps.values())))
    agreed = broadcast(joined.to(device)).cpu().numpy()
    ends = np.cumsum([keep.size for keep in keeps.values()])[:-1]
    return dict(zip(keeps, np.split(agreed, ends), strict=True))
