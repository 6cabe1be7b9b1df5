"""Layer-wise reconstruction: every layer of a thinned model is refitted to what the dense one computes at its place.

One pass of the dense model notes some outputs of every product. One pass of the thinned model then stops at every product in
turn: its remaining weights are fitted, by least squares, so that the inputs it really gets, from layers fitted before it,
give what the dense model gave; the pass continues with the new weights. After He et al. 2017 (arXiv 1707.06168) and, for
fitting thinned inputs to dense outputs, Zhang et al. 2016 (arXiv 1505.06798).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.clone import state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import CountingMode, following
from torchthin.graph.operators import LAYER_PRODUCTS, operator_name
from torchthin.graph.recorder import record
from torchthin.importance.product_rows import Product, grouped
from torchthin.recovery.layers import Layer, find_layers, products
from torchthin.recovery.ridge import Fit, fit
from torchthin.thinning.recipe import Recipe

SAME = 1e-5
"""A weight that differs from a multiple of its parameter by more than this share of its size is something else."""


@dataclass(frozen=True)
class Reconstruction:
    """What was refitted."""

    fitted: tuple[str, ...]
    """Weights with new values."""
    left: tuple[str, ...]
    """What cannot be refitted, with the reason."""


def reconstruct_(dense: nn.Module, small: nn.Module, recipe: Recipe, inputs: Inputs) -> Reconstruction:
    """Refit the layers of `small` in place.

    Args:
        dense: the model that `recipe` thinned; it is left as it is.
        small: the thinned model.
        recipe: which channels were kept.
        inputs: calibration inputs in one batch, on the models' device.
    """
    graphs = [record(model, inputs) for model in (dense, small)]
    sources = [[(op.name, op.source.module) for op in products(graph)] for graph in graphs]
    if sources[0] != sources[1]:
        return Reconstruction((), ("every layer: the thinned model runs other products than the dense one",))
    found, left = find_layers(graphs[1].live(), small)
    numbers = {op.index: number for number, op in enumerate(products(graphs[1]))}
    layers = {numbers[layer.op]: layer for layer in found}
    del graphs
    state = dict(state_tensors(dense))
    targets = _Targets({number: _kept(recipe, layer.weight, state) for number, layer in layers.items()})
    with evaluation_mode(dense), following(dense, targets):
        call(dense, inputs)
    refit = _Refit(dict(state_tensors(small)), layers, targets.found, recipe, state)
    with evaluation_mode(small), following(small, refit):
        call(small, inputs)
    return Reconstruction(tuple(refit.fitted), (*left, *refit.left))


def _kept(recipe: Recipe, name: str, state: Mapping[str, Tensor]) -> Tensor:
    """Return the filters of a weight that were kept."""
    axes = recipe.keep.get(name, {})
    return torch.tensor(axes[0]) if 0 in axes else torch.arange(state[name].shape[0])


class _ProductMode(CountingMode, ABC):
    """Stops at every product of a run."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = 0

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if operator_name(func) not in LAYER_PRODUCTS:
            return func(*args, **kwargs)
        self._seen += 1
        return self.on_product(self._seen - 1, Product.of(func, args, kwargs))

    @abstractmethod
    def on_product(self, number: int, product: Product) -> Tensor:
        """Return the result of a product, the `number`-th of the run."""


@dataclass(frozen=True)
class _Target:
    """What a product of the dense model gives."""

    places: Tensor
    """See `Product.places`."""
    rows: Tensor
    """(rows, kept channels)"""


class _Targets(_ProductMode):
    """Notes what the products of the dense model give."""

    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._kept = kept
        self.found: dict[int, _Target] = {}

    def on_product(self, number: int, product: Product) -> Tensor:
        result = product.run()
        kept = self._kept.get(number)
        if kept is not None:
            places = product.places(number)
            rows = product.output_rows(result, places)
            self.found[number] = _Target(places, rows[:, kept.to(rows.device)].float())
        return result


@dataclass
class _Refit(_ProductMode):
    """Fits the products of the thinned model as they come."""

    tensors: Mapping[str, Tensor]
    """Of the thinned model; changed in place."""
    layers: Mapping[int, Layer]
    targets: Mapping[int, _Target]
    recipe: Recipe
    dense: Mapping[str, Tensor]
    fitted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def on_product(self, number: int, product: Product) -> Tensor:
        layer = self.layers.get(number)
        if layer is None:
            return product.run()
        factors = self._factors(layer, product)
        if factors is None or product.kwargs:
            self.left.append(f"{layer.weight}: the layer uses something else than a multiple of it")
            return product.run()
        found = self._fit(layer, product, self.targets[number])
        if found is None:
            return product.run()
        self.fitted.append(layer.weight)
        weight = found.weight.reshape(product.weight.shape).to(product.weight)
        shift = None if found.bias is None else found.bias.flatten().to(weight)
        self._store_(layer, weight, shift, factors)
        return replace(product, weight=weight, bias=None if product.bias is None else shift).run()

    def _fit(self, layer: Layer, product: Product, target: _Target) -> Fit | None:
        groups, weight, bias = product.groups, product.weight, product.bias
        if layer.mean is not None:  # the old mean holds the constants that were absorbed into it
            bias = self._dense_mean(layer.mean) - self.tensors[layer.mean]
        return fit(
            product.input_rows(target.places).float(),
            grouped(target.rows, groups),
            weight.float().reshape(groups, weight.shape[0] // groups, -1),
            None if bias is None else bias.float().reshape(groups, -1),
            intercept=bias is not None,
        )

    def _dense_mean(self, name: str) -> Tensor:
        """Return the dense model's running mean of the kept channels."""
        mean, axes = self.dense[name], self.recipe.keep.get(name, {})
        return mean[torch.tensor(axes[0], device=mean.device)] if 0 in axes else mean

    def _factors(self, layer: Layer, product: Product) -> tuple[float, float] | None:
        """Return what weight and bias parameters are multiplied with before use; None: something else happens to them."""
        weight = _factor(self.tensors[layer.weight], product.weight)
        bias: float | None = 1.0
        if product.bias is not None and layer.bias is not None:
            bias = _factor(self.tensors[layer.bias], product.bias)
        return None if weight is None or bias is None else (weight, bias)

    def _store_(
        self, layer: Layer, weight: Tensor, shift: Tensor | None, factors: tuple[float, float]
    ) -> None:
        parameter = self.tensors[layer.weight]
        laid = weight if parameter.shape == weight.shape else weight.mT
        parameter.data.copy_(laid / factors[0])
        if shift is not None and layer.bias is not None:
            bias = self.tensors[layer.bias]
            bias.data.copy_(shift.reshape(bias.shape) / factors[1])
        if shift is not None and layer.mean is not None:
            self.tensors[layer.mean].copy_(self._dense_mean(layer.mean) - shift)


def _factor(parameter: Tensor, used: Tensor) -> float | None:
    """Return c where ``used = c * parameter`` (or its transpose), None where no number does that."""
    if parameter.shape != used.shape:
        if parameter.dim() != 2 or parameter.mT.shape != used.shape:
            return None
        parameter = parameter.mT
    stored, used = parameter.detach().double(), used.double()
    power = float(stored.square().sum())
    if power == 0.0:
        return 1.0 if not bool(used.any()) else None
    factor = float((stored * used).sum()) / power
    size = float(used.abs().amax())
    return factor if factor and float((used - factor * stored).abs().amax()) <= SAME * size else None
