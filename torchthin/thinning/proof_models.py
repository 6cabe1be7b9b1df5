"""The models that a proof compares, made of a proposal: the full-size one under its masks, and that one thinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchthin.graph.clone import clone
from torchthin.graph.deferred import SMALLEST, Deferred
from torchthin.graph.trace import Traced
from torchthin.thinning.apply import thin_copy
from torchthin.thinning.constraints import Proposal
from torchthin.thinning.recipe import Recipe, cut
from torchthin.thinning.scale import Scaling


@dataclass(frozen=True)
class Models:
    """Makes the masked and the thinned model of a proposal."""

    proposal: Proposal
    scalings: tuple[Scaling, ...]
    varying: bool
    """How many ops the model runs depends on the data."""

    @property
    def traced(self) -> Traced:
        """The full-size model and its record."""
        return self.proposal.traced

    def thinned(self, double: bool, recipe: Recipe) -> nn.Module:
        """Return the masked model, thinned."""
        return thin_copy(
            self.traced.model, recipe, lambda name, t: self._prepared(name, t, double, thin=True)
        )

    def masked(
        self,
        double: bool,
        changes: Mapping[str, Tensor] | None = None,
        deferred: Deferred | None = None,
    ) -> nn.Module:
        """Return the masked model, in float64 if `double`, with `changes` added to its tensors."""
        masks = self.proposal.masks

        def own(name: str, tensor: Tensor) -> Tensor:
            new = name in masks or (double and tensor.is_floating_point())
            if deferred is not None and new and tensor.numel() >= SMALLEST and tensor.is_contiguous():
                like = tensor.new_empty(0, dtype=torch.float64 if double else None)
                return deferred.placeholder(
                    tuple(tensor.shape), like, lambda: self._prepared(name, tensor, double)
                )
            ready = self._prepared(name, tensor, double)
            if changes and name in changes:
                return ready + changes[name].to(ready)
            shared = isinstance(tensor, nn.Parameter) or ready.data_ptr() != tensor.data_ptr()
            return ready if shared else ready.clone()

        return clone(self.traced.model, own)

    def _prepared(self, name: str, tensor: Tensor, double: bool, thin: bool = False) -> Tensor:
        """Mask and convert a tensor of the full-size model or, if `thin`, one that is cut already."""
        given = tensor
        tensor = tensor.detach()
        if double and tensor.is_floating_point():
            tensor = tensor.double()
        mask = self.proposal.masks.get(name)
        if mask is not None and thin:
            mask = cut(mask, self.proposal.recipe.keep.get(name, {}))
        if mask is None:
            return tensor
        own = tensor.data_ptr() != given.data_ptr()
        return tensor.mul_(mask.to(tensor.device)) if own else tensor * mask.to(tensor.device)
