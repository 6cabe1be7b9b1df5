"""Distiller's masks, bit for bit, with its overshoot and its ties (the target `Distiller`).

Distiller prunes everything whose score is at or below the k-th smallest, so ties go beyond the count, and a
zero count makes no mask or raises. Its AGP, called at the last step, overshoots: with N steps the target s
becomes ``s + s / (N - 1)**3``, because the scheduler would have stopped one step earlier. Where Distiller
raises, these functions raise `InputError` and say why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from torchthin.config import DistillerMethod
from torchthin.errors import InputError
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
