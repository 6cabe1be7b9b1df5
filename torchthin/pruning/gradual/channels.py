"""Whole channels that go step by step: groups are found once, every step scores and selects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from torchthin.config import PruneConfig, Ratio
from torchthin.dependency.groups import Group, Member
from torchthin.graph.parametrized import DerivedWeight, derived_weights
from torchthin.importance.scores import Ranking, ranked
from torchthin.io.distributed import broadcast
from torchthin.pruning.gradual.evidence import Evidence, Gradients
from torchthin.pruning.gradual.mask_state import composed, recipe_entry, recipe_of
from torchthin.pruning.gradual.sharding import WholeTensors
from torchthin.pruning.gradual.thinned_groups import shrunk, staying
from torchthin.pruning.one_shot import asked_of_groups
from torchthin.report.pruning import Filters, share
from torchthin.selection.channels import select_channels
from torchthin.selection.selectors import masks_of
from torchthin.thinning.recipe import Recipe

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """The groups that a run decides about."""

    groups: tuple[Group, ...]
    axes: Mapping[str, int]
    """Filter axis of every weight that produces channels."""
    targets: frozenset[str]
    """Weights whose filters are pruned; others are masked where they share a group with one."""


@dataclass(frozen=True)
class Channels:
    """Which channels are gone; see `Growth`."""

    chosen: Chosen
    """Groups of the full-size model."""
    alive: Mapping[str, BoolArray]
    """Group name -> which channels of the full-size group are neither masked nor removed."""
    silent: frozenset[str] = frozenset()
    """Biases that are masked with their channels."""
    derived: Mapping[str, DerivedWeight] = field(default_factory=dict)
    """The model's derived weights; their values may be those of an earlier step."""
    recipe: Recipe | None = None
    evidence: Evidence | None = None
    """For criteria that need data."""

    @classmethod
    def of(
        cls,
        chosen: Chosen,
        silent: frozenset[str],
        derived: Mapping[str, DerivedWeight],
        evidence: Evidence | None = None,
    ) -> Channels:
        """Return the decision that nothing goes yet."""
        alive = {group.name: np.ones(group.size, np.bool_) for group in chosen.groups}
        return cls(chosen, alive, silent, derived, evidence=evidence)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups of the model at hand."""
        return tuple(
            group if self.recipe is None else shrunk(group, self.recipe) for group in self.chosen.groups
        )

    @cached_property
    def left(self) -> dict[str, BoolArray]:
        """Group name -> which channels of the full-size group the model at hand has."""
        return {
            group.name: np.ones(group.size, np.bool_) if self.recipe is None else staying(group, self.recipe)
            for group in self.chosen.groups
        }

    @property
    def keeps(self) -> dict[str, BoolArray]:
        """Group name -> which channels of the model at hand are not masked."""
        return {name: alive[self.left[name]] for name, alive in self.alive.items()}

    @property
    def sparsity(self) -> float:
        """Share of the full-size groups' channels that are gone."""
        gone = sum(int((~alive).sum()) for alive in self.alive.values())
        return share(gone, sum(alive.size for alive in self.alive.values()))

    def grown(self, model: nn.Module, config: PruneConfig, sparsity: float) -> Channels:
        """Score the channels that are there and let the least important go, as many as `sparsity` asks for."""
        ranking = self.ranking(model, config)
        found = select_channels(
            self.chosen.groups,
            {name: self._full_size(name, scores) for name, scores in ranking.scores.items()},
            sparsity,
            config.target.scope,
            self.alive,
            keep_at_least=config.target.floor,
            absolute=ranking.absolute,
            round_to=config.target.round_to if isinstance(config.target, Ratio) else 1,
        )
        # Where equal numbers must go from parts, more in all can mean fewer of one part: such a step is left out.
        grown = {
            name: before if (found[name] & ~before).any() else found[name]
            for name, before in self.alive.items()
        }
        return replace(self, alive=self._shared(grown, model))

    def ranking(self, model: nn.Module, config: PruneConfig) -> Ranking:
        """Return the scores of the groups of the model at hand."""
        derived = derived_weights(model) if self.derived else {}
        weights = WholeTensors(model, {name: item.values for name, item in derived.items()})
        axes, criterion = self.chosen.axes, config.ranked_by
        measured = None
        if self.evidence is not None:
            measured = Gradients(self.evidence.measure(model, derived, config), axes, criterion)
        return ranked(self.groups, weights, axes, criterion, measured, config.seed)

    def _full_size(self, name: str, scores: FloatArray) -> FloatArray:
        """Return scores of the full-size group: what was removed scores 0, as what is masked does."""
        full = np.zeros(self.left[name].size)
        full[self.left[name]] = scores
        return full

    def _shared(self, keeps: dict[str, BoolArray], model: nn.Module) -> dict[str, BoolArray]:
        """Return what rank 0 has decided."""
        joined = np.concatenate([keeps[name] for name in keeps]) if keeps else np.zeros(0, np.bool_)
        device = next(model.parameters()).device
        agreed = broadcast(torch.from_numpy(joined).to(device)).cpu().numpy()
        ends = np.cumsum([keep.size for keep in keeps.values()])[:-1]
        return dict(zip(keeps, np.split(agreed, ends), strict=True))

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of the model at hand."""
        return self._masks(self.groups, self.keeps, model)

    def whole_masks(self, whole: nn.Module) -> dict[str, Tensor]:
        """Return masks of the full-size model."""
        return self._masks(self.chosen.groups, self.alive, whole)

    def _masks(
        self, groups: Sequence[Group], keeps: Mapping[str, BoolArray], model: nn.Module
    ) -> dict[str, Tensor]:
        masks = masks_of(groups, keeps, model, self.chosen.axes, self.chosen.targets, self.derived)
        for name in self.silent:
            bias = model.get_parameter(name)
            mask = torch.ones(bias.shape, dtype=torch.bool)
            for group in groups:
                for member in group.members:
                    if (member.parameter, member.axis) == (name, 0):
                        mask[torch.from_numpy(member.of(keeps[group.name]))] = False
            masks[name] = mask.to(bias.device)
        return masks

    def thinned(self, recipe: Recipe) -> Channels:
        """Return the same decision about the thinned model; what it lacks is gone, masked or not."""
        after = replace(self, recipe=composed(self.recipe, recipe))
        return replace(after, alive={name: alive & after.left[name] for name, alive in self.alive.items()})

    def asked(self, config: PruneConfig) -> tuple[dict[str, Filters], int]:
        """Return what the target stands for."""
        masked = {item.masked: item.axis for item in self.derived.values() if item.masked}
        axes = {**self.chosen.axes, **masked}
        return asked_of_groups(self.chosen.groups, self.alive, config, axes, axes)

    def parts(self) -> Iterator[Any]:
        """Yield the groups and what is gone of them."""
        for group in self.chosen.groups:
            yield group.name, group.size
            for member in group.members:
                yield member.parameter, member.axis
                yield member.indices
            yield self.alive[group.name]

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain types."""
        return {
            "groups": [_group_entry(group) for group in self.chosen.groups],
            "axes": dict(self.chosen.axes),
            "targets": sorted(self.chosen.targets),
            "alive": {name: torch.from_numpy(alive.copy()) for name, alive in self.alive.items()},
            "silent": sorted(self.silent),
            "recipe": recipe_entry(self.recipe),
        }

    def restored(self, entry: Mapping[str, Any]) -> Channels:
        """Return what `to_dict` wrote."""
        chosen = Chosen(
            tuple(_group_of(group) for group in entry["groups"]), entry["axes"], frozenset(entry["targets"])
        )
        alive = {name: tensor.cpu().numpy() for name, tensor in entry["alive"].items()}
        recipe = recipe_of(entry["recipe"])
        return Channels(chosen, alive, frozenset(entry["silent"]), self.derived, recipe, self.evidence)


def _group_entry(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "size": group.size,
        "members": [
            {
                "parameter": member.parameter,
                "axis": member.axis,
                "indices": torch.from_numpy(np.ascontiguousarray(member.indices)),
                "channels": None if member.channels is None else torch.from_numpy(member.channels),
            }
            for member in group.members
        ],
        "balances": [torch.from_numpy(np.ascontiguousarray(balance)) for balance in group.balances],
    }


def _group_of(entry: Mapping[str, Any]) -> Group:
    members = tuple(
        Member(
            item["parameter"],
            item["axis"],
            item["indices"].cpu().numpy(),
            None if item["channels"] is None else item["channels"].cpu().numpy(),
        )
        for item in entry["members"]
    )
    return Group(
        entry["name"], entry["size"], members, tuple(balance.cpu().numpy() for balance in entry["balances"])
    )
