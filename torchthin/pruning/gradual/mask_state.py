"""What has been decided so far in a run whose masks grow. Values, not state: each step gives a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.report.pruning import Filters
from torchthin.thinning.recipe import Recipe


class Growth(Protocol):
    """Which channels or weights of the full-size model are gone, and what of it a thinning has removed."""

    @property
    def recipe(self) -> Recipe | None:
        """What leads from the full-size model to the one at hand; None while nothing was removed."""

    @property
    def sparsity(self) -> float:
        """Share of the channels (weights) of the full-size model that are masked or removed."""

    def grown(self, model: nn.Module, config: PruneConfig, sparsity: float) -> Growth:
        """Return what is decided when `sparsity` of the full-size model is to be gone; what is gone stays gone.

        Raises:
            InputError: the model's weights cannot be ranked.
        """

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of the model at hand: name -> bool tensor of its shape, True = keep."""

    def whole_masks(self, whole: nn.Module) -> dict[str, Tensor]:
        """Return masks of the full-size model, in which what was removed is masked."""

    def thinned(self, recipe: Recipe) -> Growth:
        """Return the same decision about the model that `recipe` makes of the one at hand."""

    def asked(self, config: PruneConfig) -> tuple[dict[str, Filters], int]:
        """Return for a report what the target stands for, per weight and in all."""

    def parts(self) -> Iterator[Any]:
        """Yield what makes two runs the same run: for digests."""

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain types."""

    def restored(self, entry: Mapping[str, Any]) -> Growth:
        """Return what `to_dict` wrote."""


def composed(earlier: Recipe | None, later: Recipe) -> Recipe:
    """Return the recipe that does both."""
    return later if earlier is None else earlier.then(later)


def recipe_entry(recipe: Recipe | None) -> dict[str, Any] | None:
    """Return a recipe as plain data."""
    return None if recipe is None else recipe.to_dict()


def recipe_of(entry: Mapping[str, Any] | None) -> Recipe | None:
    """Read what `recipe_entry` wrote."""
    return None if entry is None else Recipe.from_dict(entry)
