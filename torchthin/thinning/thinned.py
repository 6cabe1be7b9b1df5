"""The masked and thinned model of a plan: its tensors are made one by one, for a copy in memory or for files."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

import torch
from torch import Tensor, nn

from torchthin.graph.clone import state_tensors
from torchthin.selection.masks import masked
from torchthin.thinning.apply import Make, finish_, owned, thin_copy
from torchthin.thinning.recipe import cut, cut_mask
from torchthin.thinning.search.trial_loop import ThinningPlan, changed_tensors
from torchthin.thinning.shorten import shortened


class ThinnedTensors:
    """What becomes of each tensor of a full-size model, made when it is asked for. No weight of the model is derived.

    Where modules are taken out of lists, tensors have their names after that.
    """

    def __init__(self, model: nn.Module, plan: ThinningPlan, masks: Mapping[str, Tensor]) -> None:
        self._values = changed_tensors(model, plan, masks)
        whole = plan.recipe
        self._model = shortened(model, whole) if whole.layers else model
        self._recipe, self._masks = whole.of_channels, masks
        self._tensors = dict(state_tensors(self._model))
        self._indices: dict[int, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor of this name: its own, or one that a bias that the recipe adds gets."""
        if name not in self._tensors:
            return self._values[name]
        tensor, axes = self._tensors[name], self._recipe.keep.get(name, {})
        return self._made(name, tensor, lambda: cut(tensor.detach(), axes, self._indices))

    def _made(self, name: str, tensor: Tensor, cut_it: Callable[[], Tensor]) -> Tensor:
        if name in self._values:
            return self._values[name].to(tensor)
        thin = owned(name, tensor, cut_it)
        if name not in self._masks:
            return thin
        mask = cut_mask(self._masks[name], self._recipe.keep.get(name, {}))
        return masked(thin, mask, own=True)

    def model(self) -> nn.Module:
        """Return the thinned model in memory; nothing of full size is made."""
        return self._copy(self._made)

    def skeleton(self, saved: Container[str]) -> nn.Module:
        """Return the thinned model with what `saved` names on the meta device: without values."""

        def make(name: str, tensor: Tensor, cut_it: Callable[[], Tensor]) -> Tensor:
            if name not in saved:
                return self._made(name, tensor, cut_it)
            shape = self._recipe.shape_after(name) if name in self._recipe.keep else tensor.shape
            return torch.empty(shape, dtype=tensor.dtype, device="meta")

        return self._copy(make)

    def _copy(self, make: Make) -> nn.Module:
        small = thin_copy(self._model, self._recipe, make)
        with torch.no_grad():
            for name in self._recipe.added:
                small.get_parameter(name).copy_(self._values[name])
        finish_(small, self._recipe)
        return small
