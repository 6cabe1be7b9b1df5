"""The models that a proof compares, made of a proposal: the full-size one under its masks, and that one thinned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchthin.graph.clone import clone
from torchthin.graph.deferred import Deferred
from torchthin.graph.precision import Precision
from torchthin.graph.reused_memory import ReusedMemory
from torchthin.graph.trace import Traced
from torchthin.selection.masks import masked
from torchthin.thinning.apply import owned, thin_copy
from torchthin.thinning.recipe import Recipe, cut_mask
from torchthin.thinning.scale import Scaling
from torchthin.thinning.search.constraints import Proposal


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

    @property
    def level(self) -> str:
        """How much is compared."""
        return self.proposal.constraints.proof

    def thinned(
        self,
        precision: Precision,
        recipe: Recipe,
        values: Mapping[str, Tensor] | None = None,
        deferred: Deferred | None = None,
    ) -> nn.Module:
        """Return the masked model, thinned, with other `values` of some tensors."""
        values = values or {}
        memory = None if deferred is None else deferred.memory

        def own(name: str, tensor: Tensor, cut_it: Callable[[], Tensor]) -> Tensor:
            like = tensor.new_empty(0, dtype=precision.of(tensor.dtype))

            def make() -> Tensor:
                return (
                    values[name].to(like)
                    if name in values
                    else self._prepared(name, cut_it(), precision, memory, thin=True)
                )

            if deferred is not None and deferred.takes(tensor):
                shape = recipe.shape_after(name) if name in recipe.keep else tuple(tensor.shape)
                return deferred.placeholder(shape, like, make)
            return owned(name, tensor, make)

        small = thin_copy(self.traced.model, recipe, own)
        with torch.no_grad():
            for name in recipe.added:
                small.get_parameter(name).copy_(values.get(name, torch.zeros(())))
        return small

    def masked(
        self,
        precision: Precision,
        changes: Mapping[str, Tensor] | None = None,
        deferred: Deferred | None = None,
    ) -> nn.Module:
        """Return the masked model, in a precision, with `changes` added to its tensors."""
        masks = self.proposal.masks
        memory = None if deferred is None else deferred.memory

        def own(name: str, tensor: Tensor) -> Tensor:
            dtype = precision.of(tensor.dtype)
            new = name in masks or dtype != tensor.dtype
            if deferred is not None and new and deferred.takes(tensor):
                like = tensor.new_empty(0, dtype=dtype)
                return deferred.placeholder(
                    tuple(tensor.shape), like, lambda: self._prepared(name, tensor, precision, memory)
                )
            ready = self._prepared(name, tensor, precision)
            if changes and name in changes:
                return ready + changes[name].to(ready)
            shared = isinstance(tensor, nn.Parameter) or ready.data_ptr() != tensor.data_ptr()
            return ready if shared else ready.clone()

        return clone(self.traced.model, own)

    def _prepared(
        self,
        name: str,
        tensor: Tensor,
        precision: Precision,
        memory: ReusedMemory | None = None,
        *,
        thin: bool = False,
    ) -> Tensor:
        """Mask and convert a tensor of the full-size model or, if `thin`, one that is cut already."""
        dtype, tensor = precision.of(tensor.dtype), tensor.detach()
        wide = tensor.to(dtype) if memory is None else memory.converted(tensor, dtype)
        mask = self.proposal.masks.get(name)
        if mask is not None and thin:
            mask = cut_mask(mask, self.proposal.recipe.keep.get(name, {}))
        return wide if mask is None else masked(wide, mask, own=wide.dtype != tensor.dtype)
