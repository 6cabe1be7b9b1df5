"""The configurations under which a model's own class has its shapes, and the loader's model compared with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import InputError, ProofError, one_line
from torchthin.graph.clone import clone, saved_names, state_tensors
from torchthin.graph.inputs import Inputs
from torchthin.io.checkpoints.fit import tied_names
from torchthin.io.pretrained.config_search import ConfigSearch, Trial, config_of
from torchthin.io.pretrained.quiet import quiet_transformers
from torchthin.io.pretrained.sizes import Sizes, sizes_of
from torchthin.io.pretrained.undescribed import OTHERWISE, why_undescribed
from torchthin.thinning.history import recipe_of
from torchthin.thinning.proof.verdict import verify


@dataclass(frozen=True)
class Description:
    """A configuration that gives all shapes of a model."""

    config: Any
    trial: Trial | None
    """How far its class is from the model; None where it describes the full-size class."""


def descriptions(model: Any) -> Iterator[Description]:
    """Yield the configurations that may describe `model`: the one whose modules keep the same numbers first.

    Raises:
        InputError: there is none; the message names what is in the way.
    """
    search = ConfigSearch(model, sizes_of(model))
    shaped = None
    for shaped in search.found():
        refined = search.refined(shaped)
        for trial in (refined, shaped) if refined is not shaped else (shaped,):
            yield Description(config_of(model, trial.config), trial)
    if shaped is None:
        raise InputError(why_undescribed(model, search, search.closest))


def full_size_config(model: Any) -> Any:
    """Return the configuration of the class that the model's recipe thins.

    Raises:
        InputError: no configuration gives the sizes that the model had.
    """
    now = sizes_of(model)
    saved, recipe = dict(now.saved), recipe_of(model)
    if recipe is not None:
        ties = {names[0]: names for names in tied_names(model)}
        for first, shape in recipe.shapes.items():
            for name in ties.get(first, [first]):
                saved |= {(name, axis): size for axis, size in enumerate(shape) if (name, axis) in saved}
        saved = {place: size for place, size in saved.items() if place[0] not in recipe.added}
    search = ConfigSearch(model, Sizes(saved, now.kept))
    trial = next(search.found(), None)
    if trial is None:
        name, axis = search.closest.saved[0].place
        raise InputError(
            f"The configuration of {type(model).__name__} does not give axis {axis} of {name} the size that it had before "
            "pruning. Save the state dict with torchthin.save."
        )
    return config_of(model, trial.config)


def why_other(model: Any, folder: Path, inputs: Inputs, found: Description) -> str | None:
    """Load the folder with the model's own class; return how that differs from `model`, or None."""
    loaded, told = loaded_by_its_class(model, folder)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told.get(kind):
            return f"its loader reports {kind.replace('_', ' ')}: {sorted(map(str, told[kind]))[0]}"
    if sorted(tied_names(loaded)) != sorted(tied_names(model)):
        return "other weights are tied in it"
    empty = [name for name, tensor in state_tensors(loaded) if tensor.is_meta]
    if empty:
        return f"its loader leaves {empty[0]} without values"
    proof = verify(_with_unsaved_of(loaded, model), loaded, inputs)
    if proof.holds:
        return None
    return f"{proof.sentence()}{_kept_otherwise(found)}"


def _with_unsaved_of(loaded: nn.Module, model: nn.Module) -> nn.Module:
    """Return the model with what no file holds as a loader computes it, where that is the same but for rounding.

    ``model.bfloat16()`` rounds rotary frequencies, which a loader makes in float32 again.
    """
    fresh, saved = dict(state_tensors(loaded)), saved_names(model)

    def exchange(name: str, tensor: Tensor) -> Tensor:
        other = fresh.get(name)
        if name in saved or other is None or not torch.equal(other.to(tensor.dtype), tensor):
            return tensor
        return other

    return clone(model, exchange)


def loaded_by_its_class(model: Any, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return what ``from_pretrained`` of the model's class makes of a folder, and what that reports.

    Raises:
        ProofError: it raises.
    """
    import transformers

    dtype = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    kernel = getattr(model.config, "_attn_implementation", None)
    how = {dtype: "auto", **({} if kernel is None else {"attn_implementation": kernel})}
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            loaded, told = type(model).from_pretrained(str(folder), output_loading_info=True, **how)
    except Exception as error:  # whatever the loader raises
        raise ProofError(
            f"The folder that was written for {type(model).__name__} does not load: {one_line(error)}. "
            f"Nothing was kept; {OTHERWISE}."
        ) from error
    device = next((tensor.device for _, tensor in state_tensors(model)), torch.device("cpu"))
    return loaded.to(device), told


def _kept_otherwise(found: Description) -> str:
    """Name the first number that modules of the model keep and those of its class do not: a scale, a frequency."""
    kept = [] if found.trial is None else found.trial.kept
    for item in kept:
        numbers = item.now, item.wanted
        if all(isinstance(number, float) and math.isfinite(number) for number in numbers):
            path, name = item.place
            return f" ({path} has {name} {item.wanted:.4g}, the class makes {item.now:.4g})"
    buffers = [item for item in kept if isinstance(item.place[1], int)]
    return f" ({buffers[0].place[0]} has another size)" if buffers else ""
