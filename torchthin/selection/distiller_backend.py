"""Masks made by Distiller itself, where it is installed: the same as `torchthin.selection.distiller` makes.

Each method calls the pruner of Distiller, once, at the end of its range, as `torchthin.selection.distiller` describes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.config import DISTILLER_METHODS
from torchthin.errors import ConfigError, InputError, one_line


def backend_masks(
    model: nn.Module, names: Iterable[str], method: str, target_sparsity: float, agp_steps: int
) -> dict[str, Tensor]:
    """Return the masks (bool, True = keep) that Distiller's pruner sets; all True where it sets none.

    Args:
        model: only looked at.
        names: weights to prune, as in ``named_parameters()``.
        method: one of `DISTILLER_METHODS` that has a backend.
        target_sparsity: of filters or single weights.
        agp_steps: range of the AGP methods, which are called at its end.

    Raises:
        ConfigError: Distiller cannot be imported.
        InputError: Distiller raises; the message names the weight.
    """
    distiller = _distiller()
    names = list(names)
    masks: dict[str, Tensor] = {}
    try:
        pruner = _pruner(distiller, method, names, target_sparsity)
        maskers: Any = distiller.create_model_masks_dict(model)
    except Exception as error:
        raise InputError(f"Distiller cannot do this: {one_line(error)}. Leave backend out.") from error
    meta = {
        "model": model,
        "starting_epoch": 0,
        "current_epoch": agp_steps,
        "ending_epoch": agp_steps,
        "frequency": 1,
    }
    for name in names:
        weight = model.get_parameter(name)
        try:
            with torch.no_grad():
                pruner.set_param_mask(weight, name, maskers, meta)
        except Exception as error:  # Distiller asserts and indexes its way through
            raise InputError(
                f"Distiller cannot prune {name}: {one_line(error)}. Leave it out with weights, or leave backend out."
            ) from error
        mask = maskers[name].mask
        masks[name] = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.bool().contiguous()
    return masks


def _distiller() -> Any:
    try:
        importlib.import_module("distiller.pruning")
        return importlib.import_module("distiller")
    except Exception as error:  # importing it can fail in many ways, such as at its old dependencies
        raise ConfigError(
            f"The backend 'distiller' of prune needs Distiller, which cannot be imported here: {one_line(error)}. "
            "Install ADI's, or leave the backend out: --compat distiller makes the same masks without it."
        ) from error


def _pruner(distiller: Any, method: str, names: list[str], target_sparsity: float) -> Any:
    pruning, name = distiller.pruning, str(DISTILLER_METHODS[method].backend)
    if method == "l1-structured":
        return getattr(pruning, name)("torchthin", "Filters", desired_sparsity=target_sparsity, weights=names)
    given: dict[str, Any] = {"initial_sparsity": 0.0, "final_sparsity": target_sparsity, "weights": names}
    if method == "agp-structured":
        given["group_type"] = "Filters"
    return getattr(pruning, name)("torchthin", **given)
