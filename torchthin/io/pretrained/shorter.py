"""The class of a model of transformers with fewer layers: its configuration is found by trying, as for other sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
    for other in proposals(config, recipe.lengths[path], kept):
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


def proposals(config: Mapping[str, Any], length: int, kept: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield configurations with fewer layers, from what is likely to what is not.

    Their count is another one, lists with an entry for each have those that are kept, and lists of their numbers the new ones.
    Then numbers up to which layers are of one kind change as well, and fields that name the last layer are left to the class.
    """
    numbers = [(field, value) for field, value in numbers_of(config) if type(value) is int]
    counts: list[Field] = [field for field, value in numbers if value == length]
    lists = _Lists.of(config, length)
    for cut, renumbered in product(
        (True, False) if lists.per_layer else (False,), (True, False) if lists.numbers else (False,)
    ):
        changes: dict[Field, Any] = {
            f: [value[i] for i in kept] for f, value in lists.per_layer.items() if cut
        }
        if renumbered:
            changes |= {f: [kept.index(i) for i in value if i in kept] for f, value in lists.numbers.items()}
        changed = with_numbers(config, changes)
        yield from (
            with_numbers(changed, {field: len(kept)}) for field in counts if field[:-1] not in changes
        )
        if changes:
            yield changed
    below = {field: sum(i < value for i in kept) for field, value in numbers if 0 < value <= length}
    for count, (field, value) in product(counts, below.items()):
        if field != count:
            yield with_numbers(config, {count: len(kept), field: value})
    if lists.ends:
        shorter = {key: value for key, value in config.items() if (key,) not in lists.ends}
        yield from (
            with_numbers(shorter, {field: len(kept)}) for field in counts if field[:1] not in lists.ends
        )


@dataclass
class _Lists:
    """The lists of a configuration that have to do with layers."""

    per_layer: dict[Field, list[Any]] = dataclasses.field(default_factory=dict)
    """With an entry for each."""
    numbers: dict[Field, list[Any]] = dataclasses.field(default_factory=dict)
    """Of numbers of layers, counted from 0."""
    ends: set[Field] = dataclasses.field(default_factory=set)
    """Others that name the last layer, counted from 1: ``out_indices``, ``stage_names``."""

    @classmethod
    def of(cls, config: Any, length: int) -> _Lists:
        """Return them."""
        found = cls()
        found._look(config, length, ())
        return found

    def _look(self, config: Any, length: int, path: Field) -> None:
        for key, value in config.items():
            if isinstance(value, dict) and len(value) <= _MOST:
                self._look(value, length, (*path, key))
            elif isinstance(value, list | tuple) and value:
                if len(value) == length:
                    self.per_layer[(*path, key)] = list(value)
                elif all(type(i) is int and 0 <= i < length for i in value) and len(set(value)) == len(value):
                    self.numbers[(*path, key)] = list(value)
                elif any(str(entry).endswith(str(length)) for entry in value):
                    self.ends.add((*path, key))


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
