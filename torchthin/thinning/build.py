"""Recipes applied: as a smaller copy that shares nothing and costs only its own size, or in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.clone import Exchange, clone, held, modules_of, state_tensors
from torchthin.graph.fake import SMALL
from torchthin.graph.parametrized import mirrored_tensors
from torchthin.thinning.attributes import attributes_after
from torchthin.thinning.recipe import Recipe, check_fits, cut


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by its first name."""
    return dict(state_tensors(model))


def sized_attributes(model: nn.Module, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the attributes that must change with the recipe's shapes, per module."""
    first_names = {id(tensor): name for name, tensor in state_tensors(model)}
    changes: dict[str, dict[str, Any]] = {}
    for path, module in modules_of(model):
        own = mirrored_tensors(module)
        names = {local: first_names[id(t)] for local, t in own.items()}
        if not any(name in recipe.keep for name in names.values()):
            continue
        before = {local: tuple(own[local].shape) for local in names}
        after = {
            local: recipe.shape_after(name) if name in recipe.keep else before[local]
            for local, name in names.items()
        }
        found = attributes_after(module, before, after)
        if found:
            changes[path] = found
    return changes


def thin_copy(
    model: nn.Module, recipe: Recipe, prepare: Exchange | None = None, *, values: bool = True
) -> nn.Module:
    """Return a copy of `model` thinned by `recipe`; tensors that the recipe leaves whole are copied.

    Args:
        model: full-size model, left as it is.
        recipe: what goes.
        prepare: change each tensor when it has been cut (mask it, convert it).
        values: False: large tensors only get their shape, for a run without arithmetic.
    """
    with held(model):
        check_fits(recipe, tensors_of(model), dict(modules_of(model)))
        small = _cut_clone(model, recipe, prepare, values)
    set_attributes_(small, recipe.attributes)
    if recipe.added:
        reference = next((t for t in tensors_of(small).values() if t.is_floating_point()), torch.zeros(()))
        for name, shape in recipe.added.items():
            path, _, local = name.rpartition(".")
            setattr(small.get_submodule(path), local, nn.Parameter(reference.new_zeros(shape)))
    return small


def _cut_clone(model: nn.Module, recipe: Recipe, prepare: Exchange | None, values: bool) -> nn.Module:
    met: dict[int, Tensor] = {}

    def exchange(name: str, tensor: Tensor) -> Tensor:
        if not values and tensor.numel() >= SMALL and tensor.is_contiguous() and name in recipe.keep:
            return tensor.new_empty(recipe.shape_after(name))
        thin = cut(tensor.detach(), recipe.keep.get(name, {}), met)
        ready = thin if prepare is None else prepare(name, thin)
        return ready.clone() if ready.data_ptr() == tensor.data_ptr() else ready

    return clone(model, exchange)


def set_attributes_(model: nn.Module, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Set module attributes by module path."""
    modules = dict(modules_of(model))
    for path, values in attributes.items():
        for name, value in values.items():
            setattr(modules[path], name, value)
