"""A checkpoint that ai8x-training's own loader turns into the thin model: ``--training-to``.

`apputils.load_checkpoint` of ADI's Distiller builds nothing: it is given the full-size class, loads a mask for every named
parameter, runs the ``ThinningRecipe`` in the file on the model, and then loads the state dict. Biases have absorbed all constants
of removed channels already, so the state dict is that of the thin model.

It is the one file of this package that names a foreign class, ``distiller.thinning.ThinningRecipe``: it is written only when
asked for, and reading it needs ``weights_only=False`` where Distiller is installed. Distiller is not needed to write it: while
the file is pickled, a module of that name stands in for it.
"""

from __future__ import annotations

import contextlib
import sys
from collections import namedtuple
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from torchthin.errors import InputError, ProofError
from torchthin.graph.clone import clone, duplicate
from torchthin.io.checkpoints import write_torch
from torchthin.io.distiller.recipe import DistillerRecipe, apply_distiller_, to_distiller
from torchthin.thinning.proof.verdict import verify
from torchthin.thinning.recipe import Recipe, cut

_PACKAGE, _HOME = "distiller", "distiller.thinning"


def save_for_training(
    path: str | Path,
    full_size: nn.Module,
    result: nn.Module,
    masks: Mapping[str, Tensor],
    recipe: Recipe | None,
    *,
    arch: str,
    epoch: int = 0,
    extras: Mapping[str, Any] | None = None,
    example_inputs: Any = None,
) -> None:
    """Write a checkpoint for ``train.py --resume-from`` or ``--exp-load-weights-from``, whole or not at all.

    Args:
        path: file to write, such as ``small.pth.tar``.
        full_size: an instance of the class that train.py will build; it is left as it is.
        result: the pruned model, thin where there is a recipe.
        masks: of `prune`, in the shapes before or after thinning.
        recipe: from `full_size` to `result`; None when nothing was removed: the file is then a masked checkpoint without a
            foreign class.
        arch: name of the model in train.py's ``--arch``.
        epoch: of the source. train.py fuses BatchNorm first when it has reached the start of quantisation-aware training.
        extras: further entries, plain types and tensors.
        example_inputs: with them, the outputs after such a load are compared with those of `result` first.

    Raises:
        InputError: Distiller cannot express the recipe, or it does not fit `full_size`.
        ProofError: the model after such a load computes something else.
        CheckpointError: the file cannot be written. After any of these nothing was written.
    """
    if not isinstance(arch, str) or not arch:
        raise InputError(
            f"A checkpoint for train.py needs the arch, its name there. Got {arch!r}; give --arch NAME."
        )
    translated = None if recipe is None or not recipe else to_distiller(recipe, full_size)
    state = result.state_dict()
    loaded = _as_loaded(full_size, translated, state)
    if example_inputs is not None:
        _require_equal(loaded, result, example_inputs)
    contents: dict[str, Any] = {
        "epoch": int(epoch),
        "arch": arch,
        "state_dict": state,
        "compression_sched": {"masks_dict": masks_dict(loaded, masks, recipe)},
        "extras": dict(extras or {}),
    }
    if translated is None:
        write_torch(path, contents)
        return
    with _stand_in() as thinning_recipe:
        recipes = [thinning_recipe(translated.modules, translated.parameters)]
        write_torch(path, contents, foreign={"thinning_recipes": recipes})


def masks_dict(
    model: nn.Module, masks: Mapping[str, Tensor], recipe: Recipe | None
) -> dict[str, Tensor | None]:
    """Return Distiller's mask (1: keep, 0: prune, the parameter's dtype) of every named parameter; None where all is kept.

    Args:
        model: as it is after loading.
        masks: bool, True = keep, in the shapes before or after `recipe`.
        recipe: what the model was thinned by.
    """
    found: dict[str, Tensor | None] = {}
    for name, parameter in model.named_parameters():
        mask = masks.get(name)
        if mask is not None and mask.shape != parameter.shape and recipe is not None:
            mask = cut(mask, recipe.keep.get(name, {}))
        if mask is not None and mask.shape != parameter.shape:
            raise InputError(
                f"The mask of {name} must have the shape {tuple(parameter.shape)}. Got {tuple(mask.shape)}."
            )
        found[name] = None if mask is None or bool(mask.all()) else mask.to(parameter.dtype)
    return found


def _as_loaded(
    full_size: nn.Module, translated: DistillerRecipe | None, state: Mapping[str, Any]
) -> nn.Module:
    """Return what ADI's loader makes of a copy of `full_size`."""
    loaded = clone(full_size, duplicate)
    try:
        if translated is not None:
            apply_distiller_(loaded, translated)
        loaded.load_state_dict(state)
    except (RuntimeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(
            f"The full-size {type(full_size).__name__} does not become the pruned model in Distiller's way: "
            f"{str(error).splitlines()[-1].strip()} Build the class that was pruned."
        ) from error
    return loaded


def _require_equal(loaded: nn.Module, result: nn.Module, example_inputs: Any) -> None:
    proof = verify(result, loaded, example_inputs)
    if any(agreement.max_error != 0 for agreement in proof.outputs):
        raise ProofError(
            f"Loaded in Distiller's way the model computes something else than the pruned one: {proof}. "
            "Nothing was written; keep the thin model with --save-to and torchthin.load instead."
        )


@contextlib.contextmanager
def _stand_in() -> Iterator[Any]:
    """Yield a class that pickles as Distiller's ``ThinningRecipe``, whether Distiller is there or not."""
    ThinningRecipe = namedtuple("ThinningRecipe", ["modules", "parameters"])
    ThinningRecipe.__module__ = _HOME
    module = ModuleType(_HOME)
    module.__dict__["ThinningRecipe"] = ThinningRecipe
    modules = {_PACKAGE: sys.modules.get(_PACKAGE, ModuleType(_PACKAGE)), _HOME: module}
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield ThinningRecipe
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(before)
