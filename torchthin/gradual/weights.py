"""Single weights that go step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.errors import InputError
from torchthin.gradual.growth import composed, recipe_entry, recipe_of
from torchthin.gradual.ranks import WholeTensors, from_first
from torchthin.report.facts import Filters, share
from torchthin.selection import prune_count, select_weights
from torchthin.targets import Target
from torchthin.thinning.recipe import Recipe, cut


@dataclass(frozen=True)
class Weights:
    """Which weights are gone; see `Growth`."""

    targets: tuple[Target, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Target name -> shape in the full-size model."""
    kept: Mapping[str, Tensor]
    """Target name -> mask of the model at hand."""
    recipe: Recipe | None = None

    @classmethod
    def of(cls, targets: tuple[Target, ...], model: nn.Module) -> Weights:
        """Return the decision that nothing goes yet."""
        weights = {target.name: model.get_parameter(target.name) for target in targets}
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        masks = {name: torch.ones(w.shape, dtype=torch.bool, device=w.device) for name, w in weights.items()}
        return cls(targets, shapes, masks)

    @property
    def sparsity(self) -> float:
        """Share of the full-size weights that are gone."""
        total = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        return share(total - sum(int(mask.count_nonzero()) for mask in self.kept.values()), total)

    def grown(self, model: nn.Module, config: PruneConfig, sparsity: float) -> Weights:
        """Let the weights of least magnitude go, as many as `sparsity` asks for."""
        tensors = WholeTensors(model, {})
        weights = {name: tensors[name].detach() for name in self.kept}
        _refuse_not_finite(weights)
        bundles = [list(weights)] if config.scope == "global" else [[name] for name in weights]
        kept: dict[str, Tensor] = {}
        for names in bundles:
            kept |= select_weights(
                {name: weights[name] for name in names},
                self._share(names, sparsity),
                config.scope,
                {name: self.kept[name].to(weights[name].device) for name in names},
                criterion=config.rule.criterion,
                keep_at_least=config.floor,
                seed=config.seed,
            )
        return replace(self, kept={name: from_first(mask) for name, mask in kept.items()})

    def _share(self, names: list[str], sparsity: float) -> float:
        """Return what a share of the full-size weights is of those that are still there."""
        was = sum(torch.Size(self.shapes[name]).numel() for name in names)
        now = sum(self.kept[name].numel() for name in names)
        count = max(prune_count(sparsity, was) - (was - now), 0)
        return min((count + 0.5) / now, 1 - 1e-12) if now else 0.0

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of the model at hand."""
        return dict(self.kept)

    def whole_masks(self, whole: nn.Module) -> dict[str, Tensor]:
        """Return masks of the full-size model."""
        return {name: self._whole(name, mask) for name, mask in self.kept.items()}

    def _whole(self, name: str, mask: Tensor) -> Tensor:
        full = torch.zeros(self.shapes[name], dtype=torch.bool, device=mask.device)
        kept = self.recipe.keep.get(name, {}) if self.recipe is not None else {}
        places = [
            torch.tensor(kept.get(axis, range(size)), device=mask.device)
            for axis, size in enumerate(self.shapes[name])
        ]
        full[torch.meshgrid(*places, indexing="ij")] = mask
        return full

    def thinned(self, recipe: Recipe) -> Weights:
        """Return the same decision about the thinned model."""
        kept = {name: cut(mask, recipe.keep.get(name, {})) for name, mask in self.kept.items()}
        return replace(self, kept=kept, recipe=composed(self.recipe, recipe))

    def asked(self, config: PruneConfig) -> tuple[dict[str, Filters], int]:
        """Return what the target stands for."""
        sizes = {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}
        counts = {name: prune_count(config.target_sparsity, size) for name, size in sizes.items()}
        filters = {t.name: Filters(t.axis, t.per_filter, counts[t.name]) for t in self.targets}
        if config.scope == "global":
            return filters, prune_count(config.target_sparsity, sum(sizes.values()))
        return filters, sum(counts.values())

    def parts(self) -> Iterator[Any]:
        """Yield the weights and what is gone of them."""
        yield from self.shapes.items()
        for mask in self.kept.values():
            yield mask.cpu().numpy()

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain types."""
        return {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "kept": {name: mask.cpu() for name, mask in self.kept.items()},
            "recipe": recipe_entry(self.recipe),
        }

    def restored(self, entry: Mapping[str, Any]) -> Weights:
        """Return what `to_dict` wrote."""
        shapes = {name: tuple(entry["shapes"][name]) for name in self.shapes}
        kept = {name: entry["kept"][name].bool() for name in self.shapes}
        return Weights(self.targets, shapes, kept, recipe_of(entry["recipe"]))


def _refuse_not_finite(weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise InputError(
                f"The weight {name} holds NaN or infinite values and cannot be ranked: training has diverged. "
                "Go back to an earlier checkpoint."
            )
