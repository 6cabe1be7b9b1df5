"""Single weights of a model pruned layer by layer, each on the inputs that arrive once the layers before it are pruned.

One pass of the dense model notes what its layers give. One pass of the pruned model then stops at every layer. For
`sparsegpt` its weights are fitted to the dense outputs first, as in `reconstruction`, so that it makes up for the layers before
it; then they are pruned and updated. `wanda` only chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from torchthin.config import NM, Target
from torchthin.errors import InputError
from torchthin.graph.clone import clone, duplicate, state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import following
from torchthin.importance.product_rows import Product
from torchthin.recovery.dense_targets import Places
from torchthin.recovery.layers import Layer
from torchthin.recovery.reconstruction import Refit
from torchthin.recovery.ridge import Fit
from torchthin.selection.layer_weights import sparsegpt, wanda_keep
from torchthin.thinning.recipe import Recipe

WHOLE = Recipe({}, {})


@dataclass(frozen=True)
class SparseLayers:
    """What was chosen."""

    masks: Mapping[str, Tensor]
    """Weight name -> bool of its shape, True = keep."""
    values: Mapping[str, Tensor]
    """Weights, and biases or running means beside them, that have new values."""
    unranked: tuple[str, ...]
    """Weights whose inputs cannot be looked at."""


def prune_layers(
    dense: nn.Module, otherwise: Mapping[str, Tensor], target: Target, criterion: str, inputs: Inputs
) -> SparseLayers:
    """Prune the weights that `otherwise` names.

    Args:
        dense: the model; it is left as it is.
        otherwise: weight name -> mask, for weights whose inputs cannot be looked at.
        target: `Unstructured` or `NM`.
        criterion: "wanda" or "sparsegpt".
        inputs: calibration inputs in one batch, on the model's device.
    """
    model, updates = clone(dense, duplicate), criterion == "sparsegpt"
    tensors = dict(state_tensors(model))
    places = Places.of(dense, model, WHOLE, inputs, otherwise)
    places = places if updates else replace(places, residual={})
    for name in otherwise.keys() - {layer.weight for layer in places.layers.values()}:
        tensors[name].data.mul_(otherwise[name])
    sparse = _Sparse(places, tensors, WHOLE, dict(state_tensors(dense)), target=target, updates=updates)
    with evaluation_mode(model), following(model, sparse):
        call(model, inputs)
    values = {name: tensors[name].detach() for name in sparse.stored if updates}
    unranked = tuple(name for name in otherwise if name not in sparse.masks)
    return SparseLayers({**otherwise, **sparse.masks}, values, unranked)


@dataclass
class _Sparse(Refit):
    """Prunes the products of a model as they come."""

    target: Target = field(kw_only=True)
    updates: bool = field(kw_only=True)
    """Whether the weights that are kept are updated."""
    masks: dict[str, Tensor] = field(default_factory=dict)

    def solved(self, number: int, layer: Layer, product: Product) -> Fit | None:
        """Return the pruned weights of a layer, and note which are kept."""
        taps = product.weight[0, 0].numel()
        if isinstance(self.target, NM) and product.weight.shape[1] % self.target.m:
            return None
        found = super().solved(number, layer, product) if self.updates else None
        weight, bias = self.present(layer, product) if found is None else (found.weight, found.bias)
        rows = product.input_rows(self.places.targets[number].places).float()
        if not bool(rows.isfinite().all()):
            raise InputError(
                f"The inputs of {layer.weight} on the data of prune are not finite. Check data and weights."
            )
        mean = rows.mean(1, keepdim=True) if bias is not None and self.updates else rows[:, :1] * 0
        order = torch.arange(weight.shape[2], device=weight.device).reshape(-1, taps).mT.flatten()
        made, keep = self._pruned(weight[:, :, order], (rows - mean)[:, :, order])
        back = order.argsort()
        new, kept = made[:, :, back], keep[:, :, back].reshape(product.weight.shape)
        self.masks[layer.weight] = kept.mT.contiguous() if layer.axis else kept
        shift = None if bias is None else bias + ((weight.double() - new) @ mean.mT.double())[..., 0]
        return Fit(new, shift)

    def _pruned(self, weight: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return new weights (groups, outputs, inputs) and which are kept; each group of a convolution is a layer of its own.

        rows: (groups, rows, inputs).
        """
        new, keep = weight.double().clone(), torch.ones_like(weight, dtype=torch.bool)
        if not self.updates:
            power = rows.square().mean(1, keepdim=True).expand(weight.shape)
            keep = wanda_keep(weight.flatten(0, 1), power.flatten(0, 1), self.target).reshape(weight.shape)
            return new * keep, keep
        for group in range(len(weight)):
            moments = rows[group].mT @ rows[group] / rows.shape[1]
            new[group], keep[group] = sparsegpt(new[group], moments, self.target)
        return new, keep
