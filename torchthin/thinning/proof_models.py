"""The models that a proof compares, made of a proposal: the full-size one under its masks, and that one thinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from torchthin.graph.clone import clone
from torchthin.graph.deferred import SMALLEST, Deferred
from torchthin.graph.precision import Precision
from torchthin.graph.trace import Traced
from torchthin.selection.masks import masked
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

    def thinned(self, precision: Precision, recipe: Recipe) -> nn.Module:
        """Return the masked model, thinned."""
        return thin_copy(
            self.traced.model, recipe, lambda name, t: self._prepared(name, t, precision, thin=True)
        )

    def masked(
        self,
        precision: Precision,
        changes: Mapping[str, Tensor] | None = None,
        deferred: Deferred | None = None,
    ) -> nn.Module:
        """Return the masked model, in a precision, with `changes` added to its tensors."""
        masks = self.proposal.masks

        def own(name: str, tensor: Tensor) -> Tensor:
            dtype = precision.of(tensor.dtype)
            new = name in masks or dtype != tensor.dtype
            if deferred is not None and new and tensor.numel() >= SMALLEST and tensor.is_contiguous():
                like = tensor.new_empty(0, dtype=dtype)
                return deferred.placeholder(
                    tuple(tensor.shape), like, lambda: self._prepared(name, tensor, precision)
                )
            ready = self._prepared(name, tensor, precision)
            if changes and name in changes:
                return ready + changes[name].to(ready)
            shared = isinstance(tensor, nn.Parameter) or ready.data_ptr() != tensor.data_ptr()
            return ready if shared else ready.clone()

        return clone(self.traced.model, own)

    def _prepared(self, name: str, tensor: Tensor, precision: Precision, thin: bool = False) -> Tensor:
        """Mask and convert a tensor of the full-size model or, if `thin`, one that is cut already."""
        tensor = tensor.detach().to(precision.of(tensor.dtype))
        mask = self.proposal.masks.get(name)
        if mask is not None and thin:
            mask = cut(mask, self.proposal.recipe.keep.get(name, {}))
        return tensor if mask is None else masked(tensor, mask)
