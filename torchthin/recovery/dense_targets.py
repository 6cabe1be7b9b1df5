"""What the dense model gives where a thinned one can be refitted: some outputs of its products, noted in one run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchthin.graph.clone import state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call, sample_count
from torchthin.graph.op_counter import following
from torchthin.graph.recorder import record
from torchthin.importance.product_rows import Product
from torchthin.importance.used_rows import linear_modules, used_rows
from torchthin.io.calibration import picked
from torchthin.recovery.counterparts import counterparts
from torchthin.recovery.layers import Layer, find_layers, products
from torchthin.recovery.product_mode import ProductMode
from torchthin.recovery.residuals import Residual, residuals
from torchthin.thinning.layer_names import name_after
from torchthin.thinning.recipe import Recipe

RECORDED = 2
"""Inputs of which the runs are recorded: with one, what is the same for all inputs would look like one of them."""


@dataclass(frozen=True)
class Places:
    """Where a thinned model can be refitted, and what the dense one gives there. Products go by their number in a run."""

    layers: Mapping[int, Layer]
    targets: Mapping[int, Target]
    residual: Mapping[int, Residual]
    """See `residuals`; of the thinned model."""
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
        few = picked(inputs, torch.arange(min(RECORDED, sample_count(inputs))))
        graphs = [record(model, few) for model in (dense, small)]
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
        state = tensors_after(dense, recipe)
        kept = {of[number]: _kept(recipe, layer, state) for number, layer in layers.items()}
        used = used_rows(dense, linear, inputs)
        rows = {of[number]: used[paths[of[number]]] for number in layers if paths[of[number]] in used}
        targets = _Targets({of[n]: beside[0][of[n]] for n in both}, kept, rows)
        with evaluation_mode(dense), following(dense, targets):
            call(dense, inputs)
        wanted = {number: targets.found[of[number]] for number in layers if of[number] in targets.found}
        return cls(layers, wanted, {n: beside[1][n] for n in both}, left)


def tensors_after(dense: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
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
    beside: Tensor | None
    """What is added to it, if anything, also after a BatchNorm: (rows, kept channels)."""


class _Targets(ProductMode):
    """Notes what the products of the dense model give."""

    def __init__(
        self, residual: Mapping[int, Residual], kept: Mapping[int, Tensor], used: Mapping[int, Tensor]
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
            beside = None if beside is None else beside[:, kept].float()
            self.found[number] = Target(places, rows[:, kept].float(), beside)
        return result
