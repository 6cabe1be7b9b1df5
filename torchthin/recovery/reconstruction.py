"""Layer-wise reconstruction: every layer of a thinned model is refitted to what the dense one computes at its place.

One pass of the dense model notes some outputs of every product. One pass of the thinned model then stops at every product in
turn: its remaining weights are fitted, by least squares, so that the inputs it really gets, from layers fitted before it,
give what the dense model gave; the pass continues with the new weights. Where the result is added to something that is there
already (a residual stream), the sum is fitted, so that a layer makes up for errors of those before it. After He et al. 2017
(arXiv 1707.06168) and, for fitting thinned inputs to dense outputs, Zhang et al. 2016 (arXiv 1505.06798).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
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
from torchthin.recovery.residuals import residuals
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
    beside = [residuals(graph) for graph in graphs]
    of_dense, of_small = ({n: one[n] for n in layers if n in beside[0] and n in beside[1]} for one in beside)
    del graphs
    state = dict(state_tensors(dense))
    kept = {number: _kept(recipe, layer.weight, state) for number, layer in layers.items()}
    targets = _Targets(of_dense, kept)
    with evaluation_mode(dense), following(dense, targets):
        call(dense, inputs)
    refit = _Refit(of_small, dict(state_tensors(small)), layers, targets.found, recipe, state)
    with evaluation_mode(small), following(small, refit):
        call(small, inputs)
    return Reconstruction(tuple(refit.fitted), (*left, *refit.left))


def _kept(recipe: Recipe, name: str, state: Mapping[str, Tensor]) -> Tensor:
    """Return the filters of a weight that were kept."""
    axes = recipe.keep.get(name, {})
    return torch.tensor(axes[0]) if 0 in axes else torch.arange(state[name].shape[0])


class _ProductMode(CountingMode, ABC):
    """Stops at every product of a run, and keeps what its result is added to."""

    def __init__(self, residual: Mapping[int, int]) -> None:
        """residual: see `residuals`."""
        super().__init__()
        self._seen = 0
        self._residual = residual
        self._uses = Counter(residual.values())
        self._held: dict[int, Tensor] = {}

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if operator_name(func) in LAYER_PRODUCTS:
            self._seen += 1
            result: Any = self.on_product(self._seen - 1, Product.of(func, args, kwargs))
        else:
            result = func(*args, **kwargs)
        if self.completed in self._uses:
            self._held[self.completed] = result if isinstance(result, Tensor) else result[0]
        return result

    def residual_rows(self, number: int, product: Product, places: Tensor) -> Tensor | None:
        """Return what is added to the result of a product at the places, (rows, channels); None where nothing is."""
        source = self._residual.get(number)
        if source is None:
            return None
        held = self._held.get(source)
        self._uses[source] -= 1
        if not self._uses[source]:
            self._held.pop(source, None)
        if held is None:
            return None
        if product.options is None:
            held = held.reshape(-1, held.shape[-1])
        return product.output_rows(held, places)

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
    summed: Tensor | None
    """The same with what is added to it, if anything."""


class _Targets(_ProductMode):
    """Notes what the products of the dense model give."""

    def __init__(self, residual: Mapping[int, int], kept: Mapping[int, Tensor]) -> None:
        super().__init__(residual)
        self._kept = kept
        self.found: dict[int, _Target] = {}

    def on_product(self, number: int, product: Product) -> Tensor:
        result = product.run()
        kept = self._kept.get(number)
        if kept is not None:
            places = product.places(number)
            rows = product.output_rows(result, places)
            kept = kept.to(rows.device)
            beside = self.residual_rows(number, product, places)
            summed = None if beside is None else (rows + beside)[:, kept].float()
            self.found[number] = _Target(places, rows[:, kept].float(), summed)
        return result


@dataclass
class _Refit(_ProductMode):
    """Fits the products of the thinned model as they come."""

    residual: Mapping[int, int]
    tensors: Mapping[str, Tensor]
    """Of the thinned model; changed in place."""
    layers: Mapping[int, Layer]
    targets: Mapping[int, _Target]
    recipe: Recipe
    dense: Mapping[str, Tensor]
    fitted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.residual)

    def on_product(self, number: int, product: Product) -> Tensor:
        layer = self.layers.get(number)
        if layer is None:
            return product.run()
        factors = self._factors(layer, product)
        if factors is None or product.kwargs:
            self.left.append(f"{layer.weight}: the layer uses something else than a multiple of it")
            return product.run()
        found = self._fit(number, layer, product)
        if found is None:
            return product.run()
        self.fitted.append(layer.weight)
        weight = found.weight.reshape(product.weight.shape).to(product.weight)
        shift = None if found.bias is None else found.bias.flatten().to(weight)
        self._store_(layer, weight, shift, factors)
        return replace(product, weight=weight, bias=None if product.bias is None else shift).run()

    def _fit(self, number: int, layer: Layer, product: Product) -> Fit | None:
        target = self.targets[number]
        groups, weight, bias = product.groups, product.weight, product.bias
        if layer.mean is not None:  # the old mean holds the constants that were absorbed into it
            bias = self._dense_mean(layer.mean) - self.tensors[layer.mean]
        beside = self.residual_rows(number, product, target.places)
        wanted = target.rows if target.summed is None or beside is None else target.summed - beside
        return fit(
            product.input_rows(target.places).float(),
            grouped(wanted, groups),
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
