"""A recipe as Distiller's `ThinningRecipe`, both ways, and what Distiller's loader does with it.

The loader does this with its two parts, in this order:

- ``modules[module][attribute]``: the attribute is set to the value; ``running_mean`` and ``running_var`` hold
  ``(axis, kept indices)`` and are cut;
- ``parameters[name]``: a list of ``(axis, kept indices)``; each cuts that axis of the parameter's data.

So it cuts parameters along any axis, but no other buffers, and it adds no parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.thinning.recipe import Recipe

Cut = tuple[int, Tensor]
"""Axis and the kept indices, int64."""
STATISTICS = ("running_mean", "running_var")
"""The only buffers that Distiller cuts."""
_ELSE = "Keep the thin model with --save-to and torchthin.load instead."


@dataclass(frozen=True)
class DistillerRecipe:
    """The two parts of a ``ThinningRecipe``."""

    modules: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Module name -> attribute -> value after, or for BatchNorm's statistics the cut."""
    parameters: dict[str, list[Cut]] = field(default_factory=dict)
    """Parameter name -> cuts, one for each axis."""


def to_distiller(recipe: Recipe, full_size: nn.Module) -> DistillerRecipe:
    """Return `recipe` as Distiller would run it on `full_size`.

    Raises:
        InputError: it takes out layers, adds a bias, cuts a buffer that Distiller cannot cut, or is empty; the message names it.
    """
    if recipe.layers:
        raise InputError(
            f"A ThinningRecipe cannot take out layers, as was done in {next(iter(recipe.layers))}. {_ELSE}"
        )
    if recipe.added:
        name = next(iter(recipe.added))
        raise InputError(
            f"A ThinningRecipe cannot add a parameter, and {name} was added to absorb the constants of removed channels. "
            f"Give that layer a bias in the class. Or: {_ELSE}"
        )
    if not recipe:
        raise InputError(f"A ThinningRecipe must cut something, and nothing was removed. {_ELSE}")
    parameters, buffers = dict(full_size.named_parameters()), dict(full_size.named_buffers())
    found = DistillerRecipe({path: dict(values) for path, values in recipe.attributes.items()})
    for name, axes in recipe.keep.items():
        cuts = [(axis, torch.tensor(kept, dtype=torch.int64)) for axis, kept in axes.items()]
        path, _, local = name.rpartition(".")
        if name in parameters:
            found.parameters[name] = cuts
        elif name in buffers and local not in STATISTICS:
            raise InputError(
                f"A ThinningRecipe cuts parameters, running_mean and running_var. {name} is another buffer. {_ELSE}"
            )
        elif name in buffers:
            found.modules.setdefault(path, {})[local] = cuts[0]
        else:
            raise InputError(
                f"The full-size {type(full_size).__name__} has no parameter or statistics {name}, which was cut. "
                "Build the class that was pruned."
            )
    if not found.parameters:
        raise InputError(f"A ThinningRecipe must cut a parameter; this one cuts buffers only. {_ELSE}")
    return found


class Parts(Protocol):
    """A ``ThinningRecipe`` as it was read; nothing in it has been checked."""

    modules: Any
    parameters: Any


def from_distiller(recipes: Iterable[Parts], full_size: nn.Module) -> Recipe:
    """Return the one recipe that does what Distiller's recipes do to `full_size`, one after the other.

    A cut of an axis that already has the size after it is skipped, as there. A linear layer after a flattening is cut by channels
    of the shape that the recipe gives.

    Raises:
        InputError: they are damaged, or made for another model.
    """
    tensors = dict([*full_size.named_parameters(), *full_size.named_buffers()])
    modules = dict(full_size.named_modules())
    keep: dict[str, dict[int, tuple[int, ...]]] = {}
    attributes: dict[str, dict[str, Any]] = {}
    for recipe in recipes:
        for name, axis, kept in _cuts(recipe, attributes):
            if name not in tensors and _is_folded(name, modules):
                continue
            if name not in tensors:
                raise InputError(f"it cuts {name}, which the model does not have. Build the full-size class.")
            before = keep.get(name, {}).get(axis, range(tensors[name].shape[axis]))
            if len(kept) == len(before):
                continue
            if not kept or min(kept) < 0 or max(kept) >= len(before):
                raise InputError(
                    f"it keeps indices of {name} that the model does not have: it was made for another one."
                )
            keep.setdefault(name, {})[axis] = tuple(before[i] for i in kept)
    changed = {
        path: {key: value for key, value in values.items() if getattr(modules.get(path), key, value) != value}
        for path, values in attributes.items()
    }
    shapes = {name: tuple(tensors[name].shape) for name in keep}
    return Recipe(shapes, keep, {path: values for path, values in changed.items() if values})


def _is_folded(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a tensor is of a BatchNorm that training has folded into the layer of ai8x that it was in."""
    path = name.rpartition(".")[0]
    layer = modules.get(path.removesuffix(".bn"))
    return path.endswith(".bn") and layer is not None and getattr(layer, "bn", ...) is None


def _cuts(recipe: Parts, attributes: dict[str, dict[str, Any]]) -> list[tuple[str, int, list[int]]]:
    """Return tensor, axis and kept indices of every cut, and put what it sets into `attributes`."""
    found = []
    try:
        for path, values in recipe.modules.items():
            for key, value in values.items():
                if key in STATISTICS:
                    found.append((f"{path}.{key}", int(value[0]), list(map(int, value[1]))))
                elif isinstance(value, int | float):
                    attributes.setdefault(str(path), {})[str(key)] = value
        for name, cuts in recipe.parameters.items():
            found += [(str(name), int(one[0]), _indices(one)) for one in cuts]
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(f"it is damaged ({type(error).__name__}). Save it again.") from error
    return found


def _indices(one: Any) -> list[int]:
    """Return the kept indices of an axis; with a shape (out, channels, h, w) those of the flattened channels that are kept."""
    kept = torch.as_tensor(one[1], dtype=torch.int64).flatten()
    if len(one) == 2:
        return [int(index) for index in kept.tolist()]
    channels, rest = int(one[2][1]), int(one[2][2]) * int(one[2][3])
    flat = torch.arange(channels * rest).reshape(channels, rest)
    return [int(index) for index in flat[kept].flatten().tolist()]


@torch.no_grad()
def apply_distiller_(model: nn.Module, recipe: DistillerRecipe) -> None:
    """Change `model` as Distiller's loader would, to see its result beforehand."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for path, values in recipe.modules.items():
        for name, value in values.items():
            if name in STATISTICS:
                axis, kept = value
                value = getattr(modules[path], name).index_select(axis, kept)
            setattr(modules[path], name, value)
    for name, cuts in recipe.parameters.items():
        for axis, kept in cuts:
            parameters[name].data = parameters[name].data.index_select(axis, kept)
