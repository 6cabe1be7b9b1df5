"""Layer-wise reconstruction: every layer of a thinned model is refitted to what the dense one computes at its place.

One pass of the dense model notes what every product gives at some places. One pass of the thinned model then stops at every
product in turn: its remaining weights are fitted, by least squares, so that the inputs it really gets, made by layers fitted
before it, give what the dense model gave; it goes on with the new weights. After He et al. 2017 (arXiv 1707.06168) and, for
fitting thinned inputs to dense outputs, Zhang et al. 2016 (arXiv 1505.06798).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import one_line
from torchthin.graph.clone import state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import CountingMode, following
from torchthin.graph.operators import CONVOLUTIONS, LAYER_PRODUCTS, operator_name
from torchthin.graph.recorder import record
from torchthin.importance.product_rows import Geometry, Places, grouped, pixel_inputs, pixel_outputs
from torchthin.recovery.layers import Layer, find_layers, products
from torchthin.recovery.ridge import Fit, fit
from torchthin.thinning.recipe import Recipe

SAME = 1e-5
"""A weight that differs from a multiple of its parameter by more than this share of its size is something else."""


@dataclass(frozen=True)
class LayerFit:
    """What became of one layer."""

    weight: str
    before: float
    """Mean squared error of its output, in units of the dense output's variance, on rows that were not fitted."""
    after: float


@dataclass(frozen=True)
class Reconstruction:
    """What was refitted."""

    layers: tuple[LayerFit, ...]
    kept: tuple[str, ...]
    """Weights that were as good as they were."""
    left: tuple[str, ...]
    """What cannot be refitted, with the reason."""


def reconstruct_(dense: nn.Module, small: nn.Module, recipe: Recipe, inputs: Inputs) -> Reconstruction:
    """Refit the layers of `small` in place.

    Args:
        dense: the model that `recipe` thinned; it is left as it is.
        small: what it became.
        recipe: which channels stayed.
        inputs: calibration inputs in one batch, on the models' device.
    """
    graphs = [record(model, inputs) for model in (dense, small)]
    places = [[(op.name, op.source.module) for op in products(graph)] for graph in graphs]
    if places[0] != places[1]:
        return Reconstruction(
            (), (), ("every layer: the thinned model runs other products than the dense one",)
        )
    layers, left = find_layers(graphs[1].live(), small)
    numbers = _numbers_among_all(graphs[1], layers)
    state = dict(state_tensors(dense))
    targets = _Targets({numbers[layer.number]: _kept(recipe, layer.weight, state) for layer in layers})
    del graphs
    with evaluation_mode(dense), following(dense, targets):
        call(dense, inputs)
    refit = _Refit(small, {numbers[layer.number]: layer for layer in layers}, targets.found, recipe, state)
    with evaluation_mode(small), following(small, refit):
        call(small, inputs)
    return Reconstruction(tuple(refit.fitted), tuple(refit.kept), (*left, *refit.left))


def _kept(recipe: Recipe, name: str, state: Mapping[str, Tensor]) -> Tensor:
    """Return the filters of a weight that stayed."""
    axes = recipe.keep.get(name, {})
    return torch.tensor(axes[0]) if 0 in axes else torch.arange(state[name].shape[0])


class _Products(CountingMode, ABC):
    """Stops at every product."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = -1

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if operator_name(func) not in LAYER_PRODUCTS:
            return func(*args, **kwargs)
        self._seen += 1
        return self.product(self._seen, func, args, kwargs)

    @abstractmethod
    def product(self, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the product, the `number`-th of a run, and return what it gives."""


@dataclass(frozen=True)
class _Target:
    """What a product of the dense model gives."""

    places: Places
    rows: Tensor
    """(rows, channels that stayed)"""


class _Targets(_Products):
    """Notes what the products of the dense model give."""

    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._kept = kept
        self.found: dict[int, _Target] = {}

    def product(self, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        kept = self._kept.get(number)
        if kept is not None:
            convolution = operator_name(func) in CONVOLUTIONS
            weight = args[1] if convolution else args[-1]
            unknowns = weight[0].numel() if convolution else weight.shape[0]
            samples, size = (result.shape[0], result[0, 0].numel()) if convolution else (1, result.shape[0])
            places = Places.draw(samples, size, unknowns, number)
            rows = pixel_outputs(result, places) if convolution else result[places.index[0].to(result.device)]
            self.found[number] = _Target(places, rows[:, kept.to(rows.device)].float())
        return result


@dataclass
class _Refit(_Products):
    """Fits the products of the thinned model as they come."""

    small: nn.Module
    layers: Mapping[int, Layer]
    targets: Mapping[int, _Target]
    recipe: Recipe
    dense: Mapping[str, Tensor]
    fitted: list[LayerFit] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._tensors = dict(state_tensors(self.small))

    def product(self, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = self.layers.get(number)
        if layer is None:
            return func(*args, **kwargs)
        convolution = operator_name(func) in CONVOLUTIONS
        weight = args[1] if convolution else args[-1].mT  # (outputs, inputs, ...)
        plain = LAYER_PRODUCTS[operator_name(func)].bias is None
        bias = args[2] if convolution else None if plain else args[0]
        factors = self._factors(layer, weight, bias)
        if factors is None or (not convolution and kwargs):
            self.left.append(f"{layer.weight}: the layer uses something else than a multiple of it")
            return func(*args, **kwargs)
        target = self.targets[number]
        if convolution:
            geometry = Geometry.of(weight, args[3:6], args[8])
            size = geometry.output_size(args[0])
            inputs = pixel_inputs(args[0], target.places, geometry, size).float()
            groups = geometry.groups
        else:
            data = args[0] if plain else args[1]
            inputs, groups = data[target.places.index[0].to(data.device)][None].float(), 1
        found = self._fit(layer, inputs, target, weight, bias, groups)
        if found is None:
            self.kept.append(layer.weight)
            return func(*args, **kwargs)
        self.fitted.append(LayerFit(layer.weight, found.before, found.after))
        new = found.weight.reshape(weight.shape).to(weight)
        shift = None if found.bias is None else found.bias.flatten().to(weight)
        self._store_(layer, new, shift, factors)
        if layer.mean is not None:
            shift = None  # the BatchNorm takes it
        if convolution:
            return func(args[0], new, bias if bias is None else shift, *args[3:], **kwargs)
        if plain:
            return func(args[0], new.mT)
        return func(shift, args[1], new.mT)

    def _fit(
        self, layer: Layer, inputs: Tensor, target: _Target, weight: Tensor, bias: Tensor | None, groups: int
    ) -> Fit | None:
        rows = target.rows
        old = bias
        if layer.mean is not None:  # the old mean holds the constants that were folded into it
            before, now = self._mean_before(layer.mean), self._tensors[layer.mean]
            old = before - now
        return fit(
            inputs,
            grouped(rows, groups),
            weight.float().reshape(groups, weight.shape[0] // groups, -1),
            None if old is None else old.float().reshape(groups, -1),
            intercept=bias is not None or layer.mean is not None,
        )

    def _mean_before(self, name: str) -> Tensor:
        """Return the dense model's running mean of the channels that stayed."""
        mean, axes = self.dense[name], self.recipe.keep.get(name, {})
        return mean[torch.tensor(axes[0], device=mean.device)] if 0 in axes else mean

    def _factors(self, layer: Layer, weight: Tensor, bias: Tensor | None) -> tuple[float, float] | None:
        """Return what the parameters are multiplied with before they are used; None: something else happens to them."""
        found = [_factor(self._tensors[layer.weight], weight)]
        if bias is not None and layer.bias is not None:
            found.append(_factor(self._tensors[layer.bias], bias))
        known = [factor for factor in found if factor is not None]
        if len(known) < len(found):
            return None
        return known[0], known[-1] if len(known) > 1 else 1.0

    def _store_(
        self, layer: Layer, weight: Tensor, shift: Tensor | None, factors: tuple[float, float]
    ) -> None:
        parameter = self._tensors[layer.weight]
        laid = weight if parameter.shape == weight.shape else weight.mT
        parameter.data.copy_(laid / factors[0])
        if shift is not None and layer.bias is not None:
            self._tensors[layer.bias].data.copy_(shift.reshape(self._tensors[layer.bias].shape) / factors[1])
        if shift is not None and layer.mean is not None:
            self._tensors[layer.mean].copy_(self._mean_before(layer.mean) - shift)


def _factor(parameter: Tensor, used: Tensor) -> float | None:
    """Return c where ``used = c * parameter`` (or its transpose), None where that is not so."""
    if parameter.shape != used.shape:
        if parameter.dim() != 2 or parameter.mT.shape != used.shape:
            return None
        parameter = parameter.mT
    here, there = parameter.detach().double(), used.double()
    power = float(here.square().sum())
    if power == 0.0:
        return 1.0 if not bool(there.any()) else None
    factor = float((here * there).sum()) / power
    scale = float(there.abs().amax())
    return factor if factor and float((there - factor * here).abs().amax()) <= SAME * scale else None


def _numbers_among_all(graph: Any, layers: tuple[Layer, ...]) -> dict[int, int]:
    """Return for each product of the graph's live part its place among all products that run."""
    all_products = [op.index for op in products(graph)]
    live = [op.index for op in products(graph.live())]
    return {layer.number: all_products.index(live[layer.number]) for layer in layers}


def why_not(error: Exception) -> str:
    """Say why a reconstruction did not run."""
    return (
        f"nothing was refitted, the model does not run on all calibration inputs at once: {one_line(error)}"
    )
