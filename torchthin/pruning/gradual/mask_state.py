"""Which channels or weights of a model are kept so far. Values, not state: each step gives a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.report.from_masks import Filters
from torchthin.thinning.recipe import Recipe

UNTHINNED = Recipe({}, {})
"""The recipe of a model from which nothing was removed."""


class MaskState(Protocol):
    """Which channels or weights of the full-size model are kept, and which of the others a thinning has removed."""

    @property
    def recipe(self) -> Recipe:
        """The way from the full-size model to the current one."""

    @property
    def sparsity(self) -> float:
        """Share of the channels (weights) of the full-size model that are masked or removed."""

    def grow(self, model: nn.Module, config: PruneConfig, sparsity: float) -> MaskState:
        """Return the state in which `sparsity` of the full-size model is masked or removed; nothing comes back.

        Raises:
            InputError: the model's weights cannot be ranked.
        """

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of the current model: name -> bool tensor of its shape, True = keep."""

    def full_size_masks(self, full_size: nn.Module) -> dict[str, Tensor]:
        """Return masks of the full-size model, in which what was removed is masked."""

    def thinned(self, recipe: Recipe) -> MaskState:
        """Return the state after `recipe` has thinned the current model."""

    def asked(self, config: PruneConfig) -> tuple[dict[str, Filters], int]:
        """Return for a report what the target asks for, per weight and in all."""

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain types."""

    def restored(self, entry: Mapping[str, Any]) -> MaskState:
        """Return the state that `to_dict` wrote."""
