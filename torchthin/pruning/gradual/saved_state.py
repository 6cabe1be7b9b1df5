"""The state of a run as tensors and plain types, and the checks before one is taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from torchthin.config import PruneConfig
from torchthin.errors import InputError, one_line
from torchthin.pruning.gradual.mask_state import Growth
from torchthin.pruning.gradual.sparsity_schedule import When
from torchthin.pruning.in_place import Thinned
from torchthin.thinning.proof import Agreement, Proof
from torchthin.thinning.recipe import Recipe

VERSION = 1
_KEYS = frozenset({"version", "step", "config", "when", "shapes", "growth", "thinned", "macs"})


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    """Return the shape of every parameter."""
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


def check_entry(entry: Any, config: PruneConfig, when: When) -> None:
    """Check that a state is one of this run.

    Raises:
        InputError: it is damaged, or of a run with other settings.
    """
    if not isinstance(entry, Mapping) or not set(entry) >= _KEYS:
        missing = sorted(_KEYS - set(entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise InputError(
            f"The state is none of Pruner.state_dict(). Missing or of the wrong type: {missing}."
        )
    if entry["version"] != VERSION:
        raise InputError(
            f"The state of the Pruner has version {entry['version']!r}; this release reads version {VERSION}."
        )
    settings = {**config.to_dict(), **asdict(when)}
    saved = {**entry["config"], **entry["when"], "planned": tuple(entry["when"]["planned"])}
    for name, value in settings.items():
        if saved.get(name) != value:
            raise InputError(
                f"The state is of a Pruner with another {name}: {saved.get(name)!r}, here {value!r}. "
                "Make the Pruner with the settings of the run to go on with."
            )


def needs_thinning(model: nn.Module, entry: Mapping[str, Any], recipe: Recipe | None) -> bool:
    """Whether `model` is full size and has to be thinned by the state's recipe first.

    Raises:
        InputError: the model has neither the sizes of the state nor those of before its thinning.
    """
    now, after = shapes_of(model), entry["shapes"]
    if now == after:
        return False
    shapes, added = (recipe.shapes, recipe.added) if recipe else ({}, {})
    whole = {name: list(shapes.get(name, shape)) for name, shape in after.items() if name not in added}
    if recipe is not None and now == whole:
        return True
    name = next(n for n in (*whole, *now) if now.get(n) != whole.get(n))
    raise InputError(
        f"The state is of another model: {name} has shape {whole.get(name)} there, {now.get(name)} here. "
        "Give an instance of the model that was pruned."
    )


def restored(growth: Growth, model: nn.Module, entry: Mapping[str, Any]) -> tuple[Growth, bool]:
    """Return what was decided when the state was taken, and whether `model` is to be thinned by its recipe first.

    Raises:
        InputError: the state is damaged, or of another model.
    """
    try:
        saved = growth.restored(entry["growth"])
        thin = needs_thinning(model, entry, saved.recipe)
        if thin or saved.recipe is None:
            saved.whole_masks(model)  # fails unless all fits
        else:
            saved.masks(model)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise InputError(
            f"The state of the Pruner is damaged or of another model: {one_line(error)}. Take another one."
        ) from error
    return saved, thin


def thinned_entry(thinned: Thinned | None) -> dict[str, Any] | None:
    """Return what a thinning brought, without its recipe, as plain types."""
    if thinned is None:
        return None
    sizes = {"before": thinned.parameters_before, "after": thinned.parameters_after}
    return {"proof": asdict(thinned.proof), "inexact": list(thinned.inexact), **sizes}


def thinned_of(entry: Mapping[str, Any] | None, recipe: Recipe | None) -> Thinned | None:
    """Read what `thinned_entry` wrote."""
    if entry is None or recipe is None:
        return None
    proof = dict(entry["proof"])
    for name in ("outputs", "masked"):
        proof[name] = tuple(Agreement(**{**item, "shape": tuple(item["shape"])}) for item in proof[name])
    return Thinned(recipe, Proof(**proof), tuple(entry["inexact"]), entry["before"], entry["after"])
