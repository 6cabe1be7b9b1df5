"""Masks of single weights that grow step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.errors import InputError
from torchthin.io.distributed import broadcast
from torchthin.pruning.gradual.mask_state import UNTHINNED
from torchthin.pruning.gradual.sharding import WholeTensors
from torchthin.report.from_masks import Filters
from torchthin.report.prune_report import share
from torchthin.selection.channels import select_weights
from torchthin.selection.prunable_weights import PrunableWeight
from torchthin.thinning.recipe import Recipe, cut


@dataclass(frozen=True)
class WeightMasks:
    """Which weights are kept; see `MaskState`."""

    targets: tuple[PrunableWeight, ...]
    kept: Mapping[str, Tensor]
    """PrunableWeight name -> mask of the full-size weight; what was removed is masked."""
    recipe: Recipe = UNTHINNED

    @classmethod
    def of(cls, targets: tuple[PrunableWeight, ...], model: nn.Module) -> WeightMasks:
        """Return the state before the first step: all weights are kept."""
        weights = {target.name: model.get_parameter(target.name) for target in targets}
        kept = {name: torch.ones(w.shape, dtype=torch.bool, device=w.device) for name, w in weights.items()}
        return cls(targets, kept)

    @property
    def sparsity(self) -> float:
        """Share of the full-size weights that are masked or removed."""
        total = sum(mask.numel() for mask in self.kept.values())
        return share(total - sum(int(mask.count_nonzero()) for mask in self.kept.values()), total)

    def grow(self, model: nn.Module, config: PruneConfig, sparsity: float) -> WeightMasks:
        """Mask the weights of least magnitude, as many as `sparsity` asks for."""
        tensors = WholeTensors(model, {})
        weights = {name: tensors[name].detach() for name in self.kept}
        _refuse_not_finite(weights)
        kept = select_weights(
            {name: self._full_size(name, weight) for name, weight in weights.items()},
            sparsity,
            config.target.scope,
            {name: mask.to(weights[name].device) for name, mask in self.kept.items()},
            criterion=config.ranked_by,
            keep_at_least=config.target.floor,
            seed=config.seed,
        )
        return replace(self, kept={name: broadcast(mask) for name, mask in kept.items()})

    def _full_size(self, name: str, weight: Tensor) -> Tensor:
        """Return the weight with zeros where it was cut."""
        full = weight.new_zeros(self.kept[name].shape)
        full[self._present(name, weight.device)] = weight
        return full

    def _present(self, name: str, device: torch.device) -> tuple[Tensor, ...]:
        """Return the indices of a full-size weight that the current model has, one tensor per axis."""
        kept = self.recipe.keep.get(name, {})
        shape = self.kept[name].shape
        axes = [torch.tensor(kept.get(d, range(size)), device=device) for d, size in enumerate(shape)]
        return torch.meshgrid(*axes, indexing="ij")

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of the current model."""
        return {name: cut(mask, self.recipe.keep.get(name, {})) for name, mask in self.kept.items()}

    def full_size_masks(self, full_size: nn.Module) -> dict[str, Tensor]:
        """Return masks of the full-size model."""
        return dict(self.kept)

    def thinned(self, recipe: Recipe) -> WeightMasks:
        """Return the state after a thinning; a weight that was removed counts as masked."""
        after = replace(self, recipe=self.recipe.then(recipe))
        kept = {name: torch.zeros_like(mask) for name, mask in self.kept.items()}
        for name, mask in self.kept.items():
            present = after._present(name, mask.device)
            kept[name][present] = mask[present]
        return replace(after, kept=kept)

    def asked(self, config: PruneConfig) -> tuple[dict[str, Filters], int]:
        """Return what the target asks for, per weight and in all."""
        sizes = {name: mask.numel() for name, mask in self.kept.items()}
        filters = {
            t.name: Filters(t.axis, t.per_filter, config.target.units(sizes[t.name])) for t in self.targets
        }
        return filters, config.target.units_of_all(sizes.values())

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain types."""
        return {
            "kept": {name: mask.cpu() for name, mask in self.kept.items()},
            "recipe": self.recipe.to_dict(),
        }

    def restored(self, entry: Mapping[str, Any]) -> WeightMasks:
        """Return the state that `to_dict` wrote."""
        kept = {name: entry["kept"][name].bool() for name in self.kept}
        return WeightMasks(self.targets, kept, Recipe.from_dict(entry["recipe"]))


def _refuse_not_finite(weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise InputError(
                f"The weight {name} holds NaN or infinite values and cannot be ranked: training has diverged. "
                "Go back to an earlier checkpoint."
            )
