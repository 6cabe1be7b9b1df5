"""Single weights that go step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.errors import InputError
from torchthin.io.distributed import broadcast
from torchthin.pruning.gradual.mask_state import composed, recipe_entry, recipe_of
from torchthin.pruning.gradual.sharding import WholeTensors
from torchthin.report.pruning import Filters, share
from torchthin.selection.channels import select_weights
from torchthin.selection.targets import Target
from torchthin.thinning.recipe import Recipe, cut


@dataclass(frozen=True)
class Weights:
    """Which weights are gone; see `Growth`."""

    targets: tuple[Target, ...]
    kept: Mapping[str, Tensor]
    """Target name -> mask of the full-size weight; what was removed is masked."""
    recipe: Recipe | None = None

    @classmethod
    def of(cls, targets: tuple[Target, ...], model: nn.Module) -> Weights:
        """Return the decision that nothing goes yet."""
        weights = {target.name: model.get_parameter(target.name) for target in targets}
        masks = {name: torch.ones(w.shape, dtype=torch.bool, device=w.device) for name, w in weights.items()}
        return cls(targets, masks)

    @property
    def sparsity(self) -> float:
        """Share of the full-size weights that are gone."""
        total = sum(mask.numel() for mask in self.kept.values())
        return share(total - sum(int(mask.count_nonzero()) for mask in self.kept.values()), total)

    def grown(self, model: nn.Module, config: PruneConfig, sparsity: float) -> Weights:
        """Let the weights of least magnitude go, as many as `sparsity` asks for."""
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
        full[self._places(name, weight.device)] = weight
        return full

    def _places(self, name: str, device: torch.device) -> tuple[Tensor, ...]:
        """Return the indices that the model at hand has of a full-size weight, one tensor per axis."""
        kept = self.recipe.keep.get(name, {}) if self.recipe is not None else {}
        shape = self.kept[name].shape
        axes = [torch.tensor(kept.get(d, range(size)), device=device) for d, size in enumerate(shape)]
        return torch.meshgrid(*axes, indexing="ij")

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of the model at hand."""
        cuts = self.recipe.keep if self.recipe is not None else {}
        return {name: cut(mask, cuts.get(name, {})) for name, mask in self.kept.items()}

    def whole_masks(self, whole: nn.Module) -> dict[str, Tensor]:
        """Return masks of the full-size model."""
        return dict(self.kept)

    def thinned(self, recipe: Recipe) -> Weights:
        """Return the same decision about the thinned model; what it lacks is gone, masked or not."""
        after = replace(self, recipe=composed(self.recipe, recipe))
        kept = {}
        for name, mask in self.kept.items():
            kept[name] = torch.zeros_like(mask)
            places = after._places(name, mask.device)
            kept[name][places] = mask[places]
        return replace(after, kept=kept)

    def asked(self, config: PruneConfig) -> tuple[dict[str, Filters], int]:
        """Return what the target stands for."""
        sizes = {name: mask.numel() for name, mask in self.kept.items()}
        counts = {name: config.target.units(size) for name, size in sizes.items()}
        filters = {t.name: Filters(t.axis, t.per_filter, counts[t.name]) for t in self.targets}
        if config.target.scope == "global":
            return filters, config.target.units_of_all(sizes.values())
        return filters, sum(counts.values())

    def parts(self) -> Iterator[Any]:
        """Yield the weights and what is gone of them."""
        for name, mask in self.kept.items():
            yield name
            yield mask.cpu().numpy()

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain types."""
        return {
            "kept": {name: mask.cpu() for name, mask in self.kept.items()},
            "recipe": recipe_entry(self.recipe),
        }

    def restored(self, entry: Mapping[str, Any]) -> Weights:
        """Return what `to_dict` wrote."""
        kept = {name: entry["kept"][name].bool() for name in self.kept}
        return Weights(self.targets, kept, recipe_of(entry["recipe"]))


def _refuse_not_finite(weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise InputError(
                f"The weight {name} holds NaN or infinite values and cannot be ranked: training has diverged. "
                "Go back to an earlier checkpoint."
            )
