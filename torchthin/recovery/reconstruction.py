"""Layer-wise reconstruction: every layer of a thinned model is refitted to what the dense one computes at its place.

One pass of the dense model notes some outputs of every product. One pass of the thinned model then stops at every product in
turn: its remaining weights are fitted, by least squares, so that the inputs it really gets, from layers fitted before it,
give what the dense model gave; the pass continues with the new weights. Where the result is added to something that is there
already (a residual stream), the sum is fitted, so that a layer makes up for errors of those before it. After He et al. 2017
(arXiv 1707.06168) and, for fitting thinned inputs to dense outputs, Zhang et al. 2016 (arXiv 1505.06798).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from torchthin.graph.clone import state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import following
from torchthin.graph.recorder import record
from torchthin.importance.product_rows import Product, grouped
from torchthin.importance.used_rows import linear_modules, used_rows
from torchthin.recovery.counterparts import counterparts
from torchthin.recovery.layers import Layer, find_layers, products
from torchthin.recovery.product_mode import ProductMode, factor_of
from torchthin.recovery.residuals import residuals
from torchthin.recovery.ridge import Fit, fit
from torchthin.thinning.layer_names import name_after
from torchthin.thinning.recipe import Recipe


@dataclass(frozen=True)
class Reconstruction:
    """What was refitted."""

    fitted: tuple[str, ...]
    """Weights with new values."""
    left: tuple[str, ...]
    """What cannot be refitted, with the reason."""


def reconstruct_(
    dense: nn.Module, small: nn.Module, recipe: Recipe, inputs: Inputs, *, before_gaps: bool = False
) -> Reconstruction:
    """Refit the layers of `small` in place.

    Args:
        dense: the model that `recipe` thinned; it is left as it is.
        small: the thinned model.
        recipe: which channels and layers were kept.
        inputs: calibration inputs in one batch, on the models' device.
        before_gaps: only what makes up for layers that were left out, see `counterparts`.
    """
    found = Places.of(dense, small, recipe, inputs, before_gaps=before_gaps)
    refit = Refit(found, dict(state_tensors(small)), recipe, _renamed(dense, recipe))
    with evaluation_mode(small), following(small, refit):
        call(small, inputs)
    return Reconstruction(tuple(refit.fitted), (*found.left, *refit.left))


@dataclass(frozen=True)
class Places:
    """Where a thinned model can be refitted, and what the dense one gives there. Products go by their number in a run."""

    layers: Mapping[int, Layer]
    targets: Mapping[int, Target]
    residual: Mapping[int, int]
    """See `residuals`."""
    left: tuple[str, ...]
    """What cannot be refitted, with the reason."""

    @classmethod
    def of(
        cls,
        dense: nn.Module,
        small: nn.Module,
        recipe: Recipe,
        inputs: Inputs,
        only: Collection[str] | None = None,
        *,
        before_gaps: bool = False,
    ) -> Places:
        """Record both models, and run the dense one.

        Args:
            dense, small, recipe, inputs: see `reconstruct_`.
            only: weights to look at; None: all.
            before_gaps: look at those alone that make up for layers that were left out, see `counterparts`.
        """
        graphs = [record(model, inputs) for model in (dense, small)]
        beside = [residuals(graph) for graph in graphs]
        partners = counterparts(graphs[0], graphs[1], beside, recipe)
        if partners is None:
            reason = "every layer: the thinned model runs other products than the dense one"
            return cls({}, {}, {}, (reason,))
        found, left = find_layers(graphs[1].live(), small)
        numbers = {op.index: number for number, op in enumerate(products(graphs[1]))}
        layers = {numbers[layer.op]: layer for layer in found if only is None or layer.weight in only}
        if before_gaps:
            layers = {number: layer for number, layer in layers.items() if number in partners.before_gaps}
        of = partners.of
        both = [n for n in layers if of[n] in beside[0] and n in beside[1]]
        linear, paths = linear_modules(graphs[0], dense), [op.source.module for op in products(graphs[0])]
        del graphs
        state = _renamed(dense, recipe)
        kept = {of[number]: _kept(recipe, layer, state) for number, layer in layers.items()}
        used = used_rows(dense, linear, inputs)
        rows = {of[number]: used[paths[of[number]]] for number in layers if paths[of[number]] in used}
        targets = _Targets({of[n]: beside[0][of[n]] for n in both}, kept, rows)
        with evaluation_mode(dense), following(dense, targets):
            call(dense, inputs)
        wanted = {number: targets.found[of[number]] for number in layers if of[number] in targets.found}
        return cls(layers, wanted, {n: beside[1][n] for n in both}, left)


def _renamed(dense: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """Return the tensors of the dense model by their names in the thinned one; those of layers that are gone are left out."""
    return {after: t for name, t in state_tensors(dense) if (after := name_after(name, recipe.layers))}


def _kept(recipe: Recipe, layer: Layer, state: Mapping[str, Tensor]) -> Tensor:
    """Return the filters of a layer that were kept."""
    kept = recipe.keep.get(layer.weight, {}).get(layer.axis)
    return torch.arange(state[layer.weight].shape[layer.axis]) if kept is None else torch.tensor(kept)


@dataclass(frozen=True)
class Target:
    """What a product of the dense model gives."""

    places: Tensor
    """See `Product.places`."""
    rows: Tensor
    """(rows, kept channels)"""
    summed: Tensor | None
    """The same with what is added to it, if anything."""


class _Targets(ProductMode):
    """Notes what the products of the dense model give."""

    def __init__(
        self, residual: Mapping[int, int], kept: Mapping[int, Tensor], used: Mapping[int, Tensor]
    ) -> None:
        super().__init__(residual)
        self._kept, self._used = kept, used
        self.found: dict[int, Target] = {}

    def on_product(self, number: int, product: Product) -> Tensor:
        result = product.run()
        kept = self._kept.get(number)
        if kept is not None:
            places = product.places(number, self._used.get(number))
            rows = product.output_rows(result, places)
            kept = kept.to(rows.device)
            beside = self.residual_rows(number, product, places)
            summed = None if beside is None else (rows + beside)[:, kept].float()
            self.found[number] = Target(places, rows[:, kept].float(), summed)
        return result


@dataclass
class Refit(ProductMode):
    """Fits the products of the thinned model as they come."""

    places: Places
    tensors: Mapping[str, Tensor]
    """Of the thinned model; changed in place."""
    recipe: Recipe
    dense: Mapping[str, Tensor]
    fitted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    stored: dict[str, None] = field(default_factory=dict)
    """Parameters and buffers that were given new values."""

    def __post_init__(self) -> None:
        super().__init__(self.places.residual)

    def on_product(self, number: int, product: Product) -> Tensor:
        """Return the result of a product with the weights that are new."""
        layer = self.places.layers.get(number)
        if layer is None:
            return product.run()
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

    def solved(self, number: int, layer: Layer, product: Product) -> Fit | None:
        """Return new weights, or None where they stay."""
        target = self.places.targets[number]
        weight, bias = self.present(layer, product)
        beside = self.residual_rows(number, product, target.places)
        wanted = target.rows if target.summed is None or beside is None else target.summed - beside
        return fit(
            product.input_rows(target.places).float(),
            grouped(wanted, product.groups),
            weight,
            bias,
            intercept=bias is not None,
        )

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
