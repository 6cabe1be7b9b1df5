"""What a recipe out of a file may do to a model: make sizes smaller, and nothing else."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from torchthin.errors import InputError
from torchthin.graph.clone import modules_of, state_tensors
from torchthin.graph.kept_integers import kept_value
from torchthin.thinning.recipe import Recipe, check_fits
from torchthin.thinning.shorten import shortened

_OF_TORCH = frozenset(dir(nn.Module()))
"""Attributes that every module has: none is a size."""


def check_stored(recipe: Recipe, model: nn.Module) -> None:
    """Check that a recipe out of a file was made for `model`, and sets and adds nothing but sizes and biases.

    Raises:
        InputError: a shape differs; an attribute is no size that `model` has, or becomes larger; what is added is no bias.
    """
    if recipe.layers:
        model = shortened(model, recipe)
    modules = dict(modules_of(model))
    check_fits(recipe, dict(state_tensors(model)), modules)
    for path, values in recipe.attributes.items():
        for name, after in values.items():
            now = _size(modules.get(path), name)
            if not (_may_become(name, now, after) or (recipe.layers and _may_be_of_layers(now, after))):
                raise InputError(
                    f"The recipe sets {name} of the module {path!r}: only sizes that the model has can be set, to whole numbers "
                    "above 0 that are no larger. Build the full-size class it was made for."
                )
    for name, shape in recipe.added.items():
        path, _, local = name.rpartition(".")
        most = max((p.numel() for p in modules[path].parameters()), default=0) if path in modules else 0
        if local in _OF_TORCH or not 0 < math.prod(shape) <= most:
            raise InputError(
                f"The recipe adds {name} of shape {shape}, which is no bias of a layer of the model. "
                "Build the full-size class it was made for."
            )


def _size(module: nn.Module | None, name: str) -> Any:
    """Return what the module keeps there; None where it cannot be a size."""
    if module is None or name.partition(".")[0] in _OF_TORCH or name.startswith("__"):
        return None
    return kept_value(module, name)


def _may_become(name: str, now: Any, after: Any) -> bool:
    """Whether a value is a size, and `after` one that it can shrink to: a number, or a list or tuple of such.

    The epsilon of a norm may become another small number.
    """
    if type(now) is int:
        return type(after) is int and 0 < after <= now
    if type(now) is float and "eps" in name:
        return type(after) is float and 0 < after <= 1
    if isinstance(now, tuple | list) and isinstance(after, tuple | list) and len(now) == len(after):
        return all(_may_become(name, before, then) for before, then in zip(now, after, strict=True))
    return False


def _may_be_of_layers(now: Any, after: Any) -> bool:
    """Whether a value may become `after` where there are fewer layers: the number of one, or a list with an entry for each."""
    if type(now) is int:
        return type(after) is int and 0 <= after <= now
    if not isinstance(now, tuple | list) or not isinstance(after, tuple | list) or len(after) > len(now):
        return False
    if any(type(entry) not in (int, float, bool, str, type(None)) for entry in (*now, *after)):
        return False
    known = {_without_number(entry): _last_number(entry) for entry in sorted(now, key=_last_number)}
    return all(_last_number(entry) <= known.get(_without_number(entry), -2) for entry in after)


def _without_number(entry: Any) -> Any:
    """Return what an entry of a list says but for the number of a layer: of a number its type, of ``stage4`` its name."""
    return int if type(entry) is int else entry.rstrip("0123456789") if isinstance(entry, str) else entry


def _last_number(entry: Any) -> int:
    """Return the number of a layer that an entry is or ends with; -1: none."""
    if type(entry) is int:
        return max(entry, -1)
    digits = entry[len(entry.rstrip("0123456789")) :] if isinstance(entry, str) else ""
    return int(digits[:9]) if digits else -1
