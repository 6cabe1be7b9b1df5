"""The state of a run as tensors and plain types, the checks before a run goes on from one, and the random generators."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
import torch
from torch import nn

from torchthin.errors import InputError, TorchthinError, one_line
from torchthin.pruning.gradual.mask_state import UNTHINNED
from torchthin.pruning.gradual.prepared import Prepared
from torchthin.pruning.gradual.progress import Macs, Progress
from torchthin.pruning.in_place import Thinned
from torchthin.thinning.proof.verdict import Agreement, Proof
from torchthin.thinning.recipe import Recipe

VERSION = 2
_KEYS = frozenset({"version", "step", "settings", "shapes", "masks", "thinned", "macs"})
_DEFAULTS = {
    "scope": "group",
    "round_to": 1,
    "fit": False,
    "exact": False,
    "add_biases": False,
    "proof": "quick",
}
"""Of settings that are written only where they differ; None where it is not here."""


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    """Return the shape of every parameter."""
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


def state_of(model: nn.Module, prepared: Prepared, progress: Progress) -> dict[str, Any]:
    """Return all that a run needs to go on."""
    return {
        "version": VERSION,
        "step": progress.step,
        "settings": _settings(prepared),
        "shapes": shapes_of(model),
        "masks": progress.masks.to_dict(),
        "thinned": None if progress.thinned is None else _thinned_to_dict(progress.thinned),
        "macs": None if progress.macs is None else list(astuple(progress.macs)),
    }


def progress_from(state: Any, model: nn.Module, prepared: Prepared) -> tuple[Progress, bool]:
    """Return the progress when a state was taken, and whether `model` has to be thinned by its recipe first.

    Raises:
        InputError: the state is damaged, of another model, or of a run with other settings.
    """
    try:
        state = _from_version_1(state)
        _check(state, prepared)
        masks = prepared.masks.restored(state["masks"])
        thin = _needs_thinning(model, state["shapes"], masks.recipe)
        _ = masks.full_size_masks(model) if thin else masks.masks(model)  # fails unless all fits
        thinned = None if state["thinned"] is None else _thinned_from_dict(state["thinned"], masks.recipe)
        # Older releases counted the whole example, and wrote two numbers.
        macs = (
            None
            if state["macs"] is None
            else Macs(int(state["macs"][0]), int(state["macs"][1]), state["macs"][2:] == [True])
        )
    except TorchthinError:
        raise
    except Exception as error:  # damage can raise anything
        raise InputError(
            f"The state of the Pruner is damaged or of another model: {one_line(error)}. Take another one."
        ) from error
    return Progress(masks, state["step"], thinned, macs), thin


def _settings(prepared: Prepared) -> dict[str, Any]:
    config, schedule = prepared.config.to_dict(), prepared.schedule
    del config["thin"]  # a Pruner thins when it is told to
    return {**config, **asdict(schedule), "planned": list(schedule.planned)}


def _from_version_1(state: Any) -> Any:
    """Return a state of version 1 under today's names; any other as it is."""
    if (
        not isinstance(state, Mapping)
        or state.get("version") != 1
        or not {"growth", "config", "when"} <= set(state)
    ):
        return state
    settings = {key: value for key, value in {**state["config"], **state["when"]}.items() if key != "thin"}
    masks = {{"alive": "kept"}.get(key, key): value for key, value in state["growth"].items()}
    masks["maker_axes"] = [[name, 0] for name in masks.pop("silent", ())]
    masks["recipe"] = masks.get("recipe") or UNTHINNED.to_dict()
    settings["planned"] = list(settings["planned"])
    return {**state, "version": VERSION, "settings": settings, "masks": masks}


def _check(state: Any, prepared: Prepared) -> None:
    if not isinstance(state, Mapping) or not set(state) >= _KEYS:
        missing = sorted(_KEYS - set(state)) if isinstance(state, Mapping) else type(state).__name__
        raise InputError(
            f"The state is none of Pruner.state_dict(). Missing or of the wrong type: {missing}."
        )
    if state["version"] != VERSION:
        raise InputError(
            f"The state of the Pruner has version {state['version']!r}; this release reads versions 1 and {VERSION}."
        )
    if type(state["step"]) is not int or state["step"] < 0:
        raise InputError(f"The state of the Pruner must have a step from 0. Got {state['step']!r:.60}.")
    saved, here = state["settings"], _settings(prepared)
    for name in {**here, **saved}:
        default = _DEFAULTS.get(name)
        if saved.get(name, default) != here.get(name, default):
            raise InputError(
                f"The state is of a Pruner with another {name}: {saved.get(name, default)!r:.200}, here "
                f"{here.get(name, default)!r}. Make the Pruner with the settings of the run to go on with."
            )


def _needs_thinning(model: nn.Module, after: Mapping[str, list[int]], recipe: Recipe) -> bool:
    """Whether `model` is full size, and the state is of a thinned one.

    Raises:
        InputError: the model has neither the sizes of the state nor those of before its thinning.
    """
    now = shapes_of(model)
    if now == after:
        return False
    full_size = {
        name: list(recipe.shapes.get(name, shape))
        for name, shape in after.items()
        if name not in recipe.added
    }
    if recipe and now == full_size:
        return True
    name = next(n for n in (*full_size, *now) if now.get(n) != full_size.get(n))
    raise InputError(
        f"The state is of another model: {name} has shape {full_size.get(name)} there, {now.get(name)} here. "
        "Give an instance of the model that was pruned."
    )


def _thinned_to_dict(thinned: Thinned) -> dict[str, Any]:
    sizes = {"before": thinned.parameters_before, "after": thinned.parameters_after}
    proof = None if thinned.proof is None else asdict(thinned.proof)
    return {"proof": proof, "inexact": thinned.inexact, **sizes}


def _thinned_from_dict(entry: Mapping[str, Any], recipe: Recipe) -> Thinned:
    inexact, sizes = tuple(entry.get("inexact", ())), (entry["before"], entry["after"])
    if entry["proof"] is None:
        return Thinned(recipe, None, *sizes, inexact)
    proof = dict(entry["proof"])
    for name in ("outputs", "masked"):
        proof[name] = tuple(Agreement(**{**item, "shape": tuple(item["shape"])}) for item in proof[name])
    proof["inexact"] = tuple(proof.get("inexact", inexact))
    return Thinned(recipe, Proof(**proof), *sizes, proof["inexact"])


def seed_all_(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the user's code may use it
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """Return the states of all generators as tensors and plain types."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states_(states: Mapping[str, Any]) -> None:
    """Set the generators to what `random_states` returned; GPUs that are no longer there are left out."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numbers, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, numbers.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    for number, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), number)
