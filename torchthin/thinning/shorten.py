"""Layers taken out of the lists of a model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from torchthin.errors import InputError
from torchthin.graph.clone import clone, modules_of
from torchthin.graph.layers import LISTS
from torchthin.thinning.history import recipe_of, set_history_
from torchthin.thinning.recipe import Recipe


def shorten_(model: nn.Module, recipe: Recipe) -> Callable[[], None]:
    """Make the lists of `model` as short as a recipe says, and note that; nothing else of the recipe is done.

    Returns:
        a function that puts the layers back.

    Raises:
        InputError: the recipe was made for lists of other lengths; nothing is changed then.
    """
    modules = dict(modules_of(model))
    check_lists(recipe, modules)
    lists = {path: (modules[path]._modules, dict(modules[path]._modules)) for path in recipe.layers}
    plain = [(vars(module), dict(vars(module))) for module in modules.values()]
    earlier = recipe_of(model)  # by names before: parts that were cut may be in layers that move

    def put_back() -> None:
        for now, before in plain:
            now.clear()
            now.update(before)
        for children, whole in lists.values():
            children.clear()
            children.update(whole)

    for path, kept in recipe.layers.items():
        children, whole = lists[path]
        children.clear()
        children.update({str(new): whole[str(old)] for new, old in enumerate(kept)})
    set_history_(model, Recipe({}, {}, layers=recipe.layers, lengths=recipe.lengths), earlier)
    return put_back


def shortened(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Return a copy of `model` with lists as short as a recipe says, which shares all tensors with it."""
    made = clone(model, lambda name, tensor: tensor)
    shorten_(made, recipe)
    return made


def check_lists(recipe: Recipe, modules: dict[str, nn.Module]) -> None:
    """Check that the lists that a recipe shortens are there, as long as it was made for.

    Raises:
        InputError: naming the first that differs.
    """
    for path, kept in recipe.layers.items():
        found, wanted = modules.get(path), recipe.lengths[path]
        if not isinstance(found, LISTS):
            raise InputError(
                f"The recipe takes layers out of {path!r}, which is no list of modules of the model. "
                "Build the class it was made for."
            )
        if list(found._modules) != [str(number) for number in range(wanted)]:
            raise InputError(
                f"The recipe was made for {wanted} layers in {path!r}; the model has {len(found)}. "
                "Build the full-size class it was made for."
            )
        if not kept or not 0 <= kept[0] <= kept[-1] < wanted:
            raise InputError(
                f"The recipe is damaged: the layers to keep of {path!r} are not among {wanted}. Thin again."
            )
