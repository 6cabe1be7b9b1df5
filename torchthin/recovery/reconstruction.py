"""Layer-wise reconstruction: every layer of a thinned model is refitted to what the dense one computes at its place.

One pass of the dense model notes some outputs of every product. One pass of the thinned model then stops at every product in
turn: its remaining weights are fitted, by least squares, so that the inputs it really gets, from layers fitted before it,
give what the dense model gave; the pass continues with the new weights. Where the result is added to something that is there
already (a residual stream), the sum is fitted, so that a layer makes up for errors of those before it. After He et al. 2017
(arXiv 1707.06168) and, for fitting thinned inputs to dense outputs, Zhang et al. 2016 (arXiv 1505.06798).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from torchthin.graph.clone import state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import following
from torchthin.importance.product_rows import Product, grouped
from torchthin.recovery.dense_targets import Places, Target, tensors_after
from torchthin.recovery.layers import Layer
from torchthin.recovery.product_mode import ProductMode, factor_of
from torchthin.recovery.progress import Progress
from torchthin.recovery.ridge import Fit, Part, fit
from torchthin.recovery.rounding import RoundedLayer, Rounding, roundings
from torchthin.thinning.recipe import Recipe

SMALL = 1e-3
"""A channel that a BatchNorm multiplies with less than this share of the largest factor makes up for nothing."""


@dataclass(frozen=True)
class Reconstruction:
    """What was refitted."""

    fitted: tuple[str, ...]
    """Weights with new values."""
    left: tuple[str, ...]
    """What cannot be refitted, with the reason."""


def reconstruct_(
    dense: nn.Module,
    small: nn.Module,
    recipe: Recipe,
    inputs: Inputs,
    *,
    before_gaps: bool = False,
    progress: Progress | None = None,
) -> Reconstruction:
    """Refit the layers of `small` in place.

    Args:
        dense: the model that `recipe` thinned; it is left as it is.
        small: the thinned model.
        recipe: which channels and layers were kept.
        inputs: calibration inputs in one batch, on the models' device.
        before_gaps: only what makes up for layers that were left out, see `counterparts`.
        progress: called after every layer.
    """
    found = Places.of(dense, small, recipe, inputs, before_gaps=before_gaps)
    rounded = roundings(small, [layer.weight for layer in found.layers.values()])
    refit = Refit(found, dict(state_tensors(small)), recipe, tensors_after(dense, recipe), progress, rounded)
    with evaluation_mode(small), following(small, refit):
        call(small, inputs)
    return Reconstruction(tuple(refit.fitted), (*found.left, *refit.left))


@dataclass
class Refit(ProductMode):
    """Fits the products of the thinned model as they come."""

    places: Places
    tensors: Mapping[str, Tensor]
    """Of the thinned model; changed in place."""
    recipe: Recipe
    dense: Mapping[str, Tensor]
    progress: Progress | None = None
    roundings: Mapping[str, Rounding] = field(default_factory=dict)
    """Of the weights of layers that round them."""
    fitted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    stored: dict[str, None] = field(default_factory=dict)
    """Parameters and buffers that were given new values."""

    def __post_init__(self) -> None:
        super().__init__(self.places.residual)
        self._looked_at = 0

    def on_product(self, number: int, product: Product) -> Tensor:
        """Return the result of a product with the weights that are new."""
        layer = self.places.layers.get(number)
        if layer is None:
            return product.run()
        result = self._refitted(number, layer, product)
        self._looked_at += 1
        if self.progress is not None:
            self.progress(self._looked_at, len(self.places.layers), "layers", None)
        return result

    def _refitted(self, number: int, layer: Layer, product: Product) -> Tensor:
        """Return the result of a layer with new weights, or with the old ones where these are as good."""
        if layer.weight in self.roundings and not product.kwargs:
            return self._rounded(number, layer, product)
        factors = self._factors(layer, product)
        if factors is None or product.kwargs:
            self.left.append(f"{layer.weight}: the layer uses something else than a multiple of it")
            return product.run()
        found = self.solved(number, layer, product)
        if found is None:
            return product.run()
        self.fitted.append(layer.weight)
        weight = found.weight.reshape(product.weight.shape).to(product.weight)
        shift = None if found.bias is None else found.bias.flatten().to(weight)
        self._store_(layer, weight, shift, factors)
        return replace(product, weight=weight, bias=None if product.bias is None else shift).run()

    def _rounded(self, number: int, layer: Layer, product: Product) -> Tensor:
        """Return the result of a product of a layer that rounds, see `torchthin.recovery.rounding`."""
        target = self.places.targets[number]
        rounded = RoundedLayer(self.roundings[layer.weight], layer, self.tensors, self.dense)
        inputs = product.input_rows(target.places).float()
        found = rounded.refit(product, inputs, grouped(target.rows, product.groups))
        if found is None:
            return product.run()
        self.fitted.append(layer.weight)
        shape, shift = product.weight.shape, found.used_bias
        self._store_(
            layer,
            found.weight.reshape(shape),
            None if found.bias is None else found.bias.flatten(),
            (1.0, 1.0),
        )
        bias = None if shift is None or product.bias is None else shift.flatten().to(product.bias)
        return replace(product, weight=found.used_weight.reshape(shape).to(product.weight), bias=bias).run()

    def solved(self, number: int, layer: Layer, product: Product) -> Fit | None:
        """Return new weights, or None where they stay."""
        target = self.places.targets[number]
        weight, bias = self.present(layer, product)
        wanted = target.rows + self._missing(number, product, target)
        parts = _parts(product, target.places, wanted)
        return fit(parts, len(wanted), weight, bias, intercept=bias is not None)

    def _missing(self, number: int, product: Product, target: Target) -> Tensor | float:
        """Return what the thinned model lacks in the activation that the result is added to, in units of the result."""
        beside = self.residual_rows(number, product, target.places)
        if target.beside is None or beside is None:
            return 0.0
        missing = target.beside - beside.float()
        norm = self.places.residual[number].norm
        if norm is None:
            return missing
        factor = norm.factor(self.tensors).float()
        return torch.where(factor.abs() > SMALL * factor.abs().amax(), missing / factor, 0.0)

    def present(self, layer: Layer, product: Product) -> tuple[Tensor, Tensor | None]:
        """Return the weight as it is, (groups, outputs, inputs), and what is added to the outputs, (groups, outputs)."""
        groups, weight, bias = product.groups, product.weight, product.bias
        if layer.mean is not None:  # the old mean holds the constants that were absorbed into it
            bias = self._dense_mean(layer.mean) - self.tensors[layer.mean]
        laid = weight.float().reshape(groups, weight.shape[0] // groups, -1)
        return laid, None if bias is None else bias.float().reshape(groups, -1)

    def _dense_mean(self, name: str) -> Tensor:
        """Return the dense model's running mean of the kept channels."""
        mean, axes = self.dense[name], self.recipe.keep.get(name, {})
        return mean[torch.tensor(axes[0], device=mean.device)] if 0 in axes else mean

    def _factors(self, layer: Layer, product: Product) -> tuple[float, float] | None:
        """Return what weight and bias parameters are multiplied with before use; None: something else happens to them."""
        parameter = self.tensors[layer.weight]
        weight = factor_of(parameter.mT if layer.axis else parameter, product.weight)
        bias: float | None = 1.0
        if product.bias is not None and layer.bias is not None:
            bias = factor_of(self.tensors[layer.bias], product.bias)
        return None if weight is None or bias is None else (weight, bias)

    def _store_(
        self, layer: Layer, weight: Tensor, shift: Tensor | None, factors: tuple[float, float]
    ) -> None:
        parameter = self.tensors[layer.weight]
        laid = weight.mT if layer.axis else weight
        parameter.data.copy_(laid / factors[0])
        absorbing = [] if shift is None else [name for name in (layer.bias, layer.mean) if name is not None]
        self.stored |= dict.fromkeys([layer.weight, *absorbing])
        if shift is not None and layer.bias is not None:
            bias = self.tensors[layer.bias]
            bias.data.copy_(shift.reshape(bias.shape) / factors[1])
        if shift is not None and layer.mean is not None:
            self.tensors[layer.mean].copy_(self._dense_mean(layer.mean) - shift)


def _parts(product: Product, places: Tensor, wanted: Tensor) -> Iterator[Part]:
    """Yield inputs of a product at the places, and what is wanted of it there: (rows, outputs) in all."""
    low = 0
    for part, some in product.parts(places):
        rows = some.numel()
        yield part.input_rows(some).float(), grouped(wanted[low : low + rows], product.groups)
        low += rows
