"""What a model was thinned by so far: kept with it, so that later cuts, copies and files know the way from its class."""

from __future__ import annotations

import json

from torch import nn

from torchthin.graph.clone import modules_of
from torchthin.thinning.recipe import Recipe

_ATTRIBUTE = "_torchthin_recipe"
"""Of a module that was thinned: its recipe as a text, which copies and pickles carry without this package."""


def recipe_of(model: nn.Module) -> Recipe | None:
    """Return the one recipe that makes `model` of its class at full size; None where nothing was removed from it."""
    whole = None
    for path, module in modules_of(model):  # what was cut as a part was cut after the whole: see `remember_`
        text = vars(module).get(_ATTRIBUTE)
        if text is not None:
            own = Recipe.from_dict(json.loads(text)).below(path)
            whole = own if whole is None else whole.then(own)
    return whole


def remember_(model: nn.Module, recipe: Recipe) -> None:
    """Note that `recipe` was applied to `model`, after what thinned it and its parts before."""
    set_history_(model, recipe, recipe_of(model))


def set_history_(model: nn.Module, recipe: Recipe, earlier: Recipe | None) -> None:
    """Note that `recipe` was applied after `earlier`, whatever is noted so far."""
    whole = recipe if earlier is None else earlier.then(recipe)
    for _, module in modules_of(model):
        vars(module).pop(_ATTRIBUTE, None)
    vars(model)[_ATTRIBUTE] = json.dumps(whole.to_dict())
