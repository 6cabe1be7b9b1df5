"""The class of a model of transformers with fewer layers: its configuration is found by trying, as for other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from torch import nn

from torchthin.graph.clone import modules_of
from torchthin.graph.kept_integers import kept_values
from torchthin.io.pretrained.config_search import built, config_of
from torchthin.io.pretrained.fields import Field, numbers_of, with_numbers
from torchthin.io.pretrained.quiet import quiet_transformers
from torchthin.io.pretrained.sizes import sizes_of
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.shorten import shortened

Attributes = dict[str, dict[str, Any]]
"""Path of a module -> what it keeps, by the way to it -> value."""
_MOST = 256
"""Entries of a list that may hold one for every layer."""


def attributes_of_shorter(model: Any, recipe: Recipe) -> Attributes | None:
    """Return what modules of the shortened model must keep: numbers of layers, how many there are, lists with one for each.

    That is what the model's own class makes where its configuration has fewer layers. None where no configuration does that, or
    the model is none of transformers. The configuration itself is among what modules keep.
    """
    if not all(hasattr(model, name) for name in ("config", "from_pretrained", "save_pretrained")):
        return None
    try:
        with quiet_transformers():
            base = built(model, model.config)
            made, config = base, model.config.to_dict()
            for path in recipe.layers:
                found = _with_shorter_list(model, made, config, _of_one(recipe, path))
                if found is None:
                    return None
                made, config = found
    except Exception:  # whatever the class raises when it is built from its own configuration
        return None
    return _differences(shortened(base, recipe), made)


def _of_one(recipe: Recipe, path: str) -> Recipe:
    return replace(recipe, layers={path: recipe.layers[path]}, lengths={path: recipe.lengths[path]})


def _with_shorter_list(
    model: Any, base: nn.Module, config: Mapping[str, Any], recipe: Recipe
) -> tuple[nn.Module, Mapping[str, Any]] | None:
    """Return the class with one list shorter than in `base`, and its configuration: the one that keeps most else as it was."""
    wanted = shortened(base, recipe)
    sizes, marks = sizes_of(wanted).saved, _marks(wanted)
    ((path, kept),) = recipe.layers.items()
    best: tuple[nn.Module, Mapping[str, Any]] | None = None
    fewest = -1
    for other in _proposals(config, recipe.lengths[path], kept):
        try:
            made = built(model, config_of(model, other))
        except Exception:  # a class may refuse numbers in any way
            continue
        if sizes_of(made).saved != sizes:
            continue
        found = _marks(made)
        wrong = sum(found.get(place) != mark for place, mark in marks.items())
        if fewest < 0 or wrong < fewest:
            best, fewest = (made, other), wrong
        if not wrong:
            break
    return best


def _proposals(config: Mapping[str, Any], length: int, kept: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield configurations with fewer layers: their count, lists with an entry for each, lists of their numbers."""
    fields: list[Field] = [
        field for field, value in numbers_of(config) if type(value) is int and value == length
    ]
    per_layer, numbers = _lists(config, length)
    for cut, renumbered in product(
        (True, False) if per_layer else (False,), (True, False) if numbers else (False,)
    ):
        lists: dict[Field, Any] = {
            field: [value[i] for i in kept] for field, value in per_layer.items() if cut
        }
        if renumbered:
            lists |= {field: [kept.index(i) for i in value if i in kept] for field, value in numbers.items()}
        changed = with_numbers(config, lists)
        yield from (with_numbers(changed, {field: len(kept)}) for field in fields if field[:-1] not in lists)
        if lists:
            yield changed


def _lists(
    config: Any, length: int, path: Field = ()
) -> tuple[dict[Field, list[Any]], dict[Field, list[Any]]]:
    """Return the lists of a configuration that have an entry for each layer, and those that hold numbers of layers."""
    per_layer: dict[Field, list[Any]] = {}
    numbers: dict[Field, list[Any]] = {}
    for key, value in config.items():
        if isinstance(value, dict) and len(value) <= _MOST:
            inner = _lists(value, length, (*path, key))
            per_layer |= inner[0]
            numbers |= inner[1]
        elif isinstance(value, list | tuple) and value:
            if len(value) == length:
                per_layer[(*path, key)] = list(value)
            elif all(type(i) is int and 0 <= i < length for i in value) and len(set(value)) == len(value):
                numbers[(*path, key)] = list(value)
    return per_layer, numbers


def _marks(model: nn.Module) -> dict[tuple[str, str], Any]:
    """Return the numbers, names and flags that modules keep, by which layers of one class differ."""
    return {
        (path, name): value
        for path, module in modules_of(model)
        for name, value in vars(module).items()
        if type(value) in (int, float, bool, str)
    }


def _differences(now: nn.Module, wanted: nn.Module) -> Attributes:
    """Return what modules of `wanted` keep otherwise, as far as a recipe may set it: smaller numbers and shorter lists."""
    found: Attributes = {}
    before = kept_values(now)
    for place, value in kept_values(wanted).items():
        old = before.get(place)
        smaller = type(value) is type(old) is int and 0 <= value < old
        shorter = (
            isinstance(value, list) and isinstance(old, list) and value != old and len(value) <= len(old)
        )
        if smaller or shorter:
            found.setdefault(place.module, {})[place.path] = value
    return found
