"""Distiller's masks bit for bit (the target `Distiller`), made here or by Distiller itself where it is installed.

Distiller prunes everything whose score is at or below the k-th smallest, so ties go beyond the count, and a
zero count makes no mask or raises. Its AGP, called at the last step, overshoots: with N steps the target s
becomes ``s + s / (N - 1)**3``, because the scheduler would have stopped one step earlier. Where Distiller
raises, these functions raise `InputError` and say why.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.config import DISTILLER_METHODS, DistillerMethod
from torchthin.errors import ConfigError, InputError, one_line
from torchthin.importance.registry import row_criterion
from torchthin.importance.scores import filter_rows, widened
from torchthin.selection.channels import kth_smallest
from torchthin.selection.masks import axis_mask
from torchthin.selection.schedule import agp_target


def distiller_masks(
    weights: Mapping[str, Tensor], method: DistillerMethod, sparsity: float, agp_steps: int
) -> dict[str, Tensor]:
    """Return Distiller's mask of every weight (bool, True = kept), each ranked alone; all True where Distiller makes none.

    Raises `InputError`, naming the weight, where Distiller raises.
    """
    fraction = agp_target(sparsity, agp_steps) if method.agp else sparsity
    masks = {}
    for name, weight in weights.items():
        try:
            if method.norm is None:
                masks[name] = _weights_kept(weight.detach(), fraction)
                continue
            kept = _channels_kept(weight.detach(), fraction, method.norm, method.axis)
        except InputError as error:
            raise type(error)(f"The weight {name} cannot be pruned as Distiller does. {error}") from None
        all_kept = torch.ones_like(weight, dtype=torch.bool)
        masks[name] = all_kept if kept is None else axis_mask(kept, weight, method.axis)
    return masks


def _channels_kept(weight: Tensor, fraction: float, norm: str, axis: int) -> Tensor | None:
    """Return which filters (axis 0) or input channels (axis 1) of a 4-d weight are kept, shape (size of axis,).

    ``floor(fraction * n)`` are removed and all tied with the last of them; None for 0. All n are removed only when the
    fraction is exactly 1.
    """
    if weight.dim() != 4:
        raise InputError(
            f"Distiller ranks the filters of 4-d weights only. Got {weight.dim()}-d. Choose Ratio or Unstructured (no --compat)."
        )
    size = weight.shape[axis]
    count = math.floor(fraction * size)
    if count > size:
        raise _overshot(fraction, "filters")
    if count == size and fraction != 1.0:
        count -= 1
    if count == 0:
        return None
    return _above_kth(row_criterion(norm)(filter_rows(weight, axis)), count)


def _weights_kept(weight: Tensor, fraction: float) -> Tensor:
    """Return the mask without the ``int(fraction * numel)`` least magnitudes and all tied with the last."""
    sizes = weight.abs()
    count = int(fraction * sizes.numel())
    if count > sizes.numel():
        raise _overshot(fraction, "weights")
    if count == 0:
        raise InputError(
            f"Distiller cannot prune {fraction:.6g} of {sizes.numel()} weights: that is less than one. "
            "Raise the sparsity, leave this weight out, or choose Ratio or Unstructured (no --compat)."
        )
    return _above_kth(sizes, count)


def _above_kth(scores: Tensor, count: int) -> Tensor:
    """Return which scores are above the `count`-th smallest; everything tied with that one is removed too."""
    return scores > kth_smallest(widened(scores).flatten(), count).to(scores.dtype)


def _overshot(fraction: float, what: str) -> InputError:
    return InputError(
        f"Distiller cannot prune {fraction:.6g} of the {what}: its AGP overshoots when agp_steps is small. "
        "Raise agp_steps, lower the sparsity, or choose Ratio or Unstructured (no --compat)."
    )


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
