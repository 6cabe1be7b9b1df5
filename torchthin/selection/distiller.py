"""Distiller's masks, bit for bit: overshoot, ties and keep rules included (the target `Distiller`).

Distiller prunes everything whose score is at or below the k-th smallest, so ties go beyond the count, and a
zero count makes no mask or raises. Its AGP, called at the last step, overshoots: with N steps the target s
becomes ``s + s / (N - 1)**3``, because the scheduler would have stopped one step earlier. Where Distiller
raises, these functions raise `InputError` and say why.

Every rule takes a weight and a number and returns its mask (bool, True = keep), or None where Distiller makes
none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from torchthin.config import DistillerMethod
from torchthin.errors import InputError
from torchthin.importance.registry import row_criterion
from torchthin.importance.scores import filter_rows, widened
from torchthin.selection.channels import kth_smallest
from torchthin.selection.masks import axis_mask
from torchthin.selection.schedule import agp_target

Rule = Callable[[Tensor, float], Tensor | None]


def _above_kth(scores: Tensor, count: int) -> Tensor:
    """Return which scores are above the `count`-th smallest; everything tied with that one goes too."""
    return scores > kth_smallest(widened(scores).flatten(), count).to(scores.dtype)


def _overshot(fraction: float, what: str) -> InputError:
    return InputError(
        f"Distiller cannot prune {fraction:.6g} of the {what}: its AGP overshoots when agp_steps is small. "
        "Raise agp_steps, lower the sparsity, or choose Ratio or Unstructured (no --compat)."
    )


def ranked_keep(weight: Tensor, fraction: float, norm: str = "l1", axis: int = 0) -> Tensor | None:
    """Return which filters (axis 0) or input channels (axis 1) of a 4-d weight stay, shape (size of axis,).

    ``floor(fraction * n)`` go and all tied with the last of them. All n go only when the fraction is exactly
    1.
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


def ranked(weight: Tensor, fraction: float, norm: str = "l1", axis: int = 0) -> Tensor | None:
    """Return the mask of `ranked_keep` in the weight's shape."""
    keep = ranked_keep(weight, fraction, norm, axis)
    return None if keep is None else axis_mask(keep, weight, axis)


def level(weight: Tensor, fraction: float) -> Tensor:
    """Return the mask without the ``int(fraction * numel)`` least magnitudes and all tied with the last."""
    sizes = weight.detach().abs()
    count = int(fraction * sizes.numel())
    if count > sizes.numel():
        raise _overshot(fraction, "weights")
    if count == 0:
        raise InputError(
            f"Distiller cannot prune {fraction:.6g} of {sizes.numel()} weights: that is less than one. "
            "Raise the sparsity, leave this weight out, or choose Ratio or Unstructured (no --compat)."
        )
    return _above_kth(sizes, count)


def magnitude(weight: Tensor, threshold: float) -> Tensor:
    """Return ``|w| > threshold``."""
    return weight.detach().abs() > threshold


def sensitivity(weight: Tensor, factor: float) -> Tensor:
    """Return ``|w| > factor * std(w)`` (unbiased), after Han et al. 2015."""
    return weight.detach().abs() > factor * weight.detach().std()


def splicing(
    weight: Tensor, factor: float, low: float = 0.9, high: float = 1.1, previous: Tensor | None = None
) -> Tensor:
    """Return the mask of dynamic network surgery (Guo et al. 2016).

    Between the two thresholds the old mask holds. The base is ``mean|w| + std|w| * factor``; below ``base *
    low`` weights go, at or above ``base * high`` they return.
    """
    sizes = weight.detach().abs()
    # In Python floats, as Distiller does it: in float32 the base can round to another side of a weight.
    base = float(sizes.mean()) + float(sizes.std()) * factor
    old = torch.ones_like(sizes, dtype=torch.bool) if previous is None else previous
    return (old & (sizes >= base * low)) | (sizes >= base * high)


def baidu_threshold(
    q: float,
    epoch: float,
    *,
    ramp: float,
    end: float,
    start: float = 0,
    interval: float = 1,
    slope: float = 2.0,
) -> float:
    """Return the threshold of Narang et al. 2017 at `epoch`; after `ramp` it grows `slope` times as fast."""
    first = 2 * q * interval / (2 * (ramp - start) + 3 * (end - ramp))
    if epoch < ramp:
        return first * (epoch - start + 1) / interval
    return (first * (ramp - start + 1) + first * slope * (epoch - ramp + 1)) / interval


def threshold(weight: Tensor, limit: float, score: str = "l1") -> Tensor:
    """Return the mask of the filters whose criterion (l1: mean |w|, max: largest |w|) is above `limit`."""
    return axis_mask(row_criterion(score)(filter_rows(weight, 0)) > limit, weight, 0)


def blocks(weight: Tensor, fraction: float, block: int) -> Tensor:
    """Return the mask that drops `block` filter kernels side by side, at each kernel position alone.

    The weight (o, i, kh, kw) is seen as (o * i / block, block, kh * kw); a block's score is its sum of
    ``|w|``.
    """
    kernels = weight.shape[0] * weight.shape[1]
    if kernels % block:
        raise InputError(
            f"The block of Distiller must divide the {kernels} kernels of the weight. Got {block}."
        )
    view = weight.detach().reshape(kernels // block, block, -1)
    keep = level(torch.linalg.vector_norm(view, ord=1, dim=1), fraction)
    return keep.unsqueeze(1).expand_as(view).reshape(weight.shape)


def leader(weights: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Return the masks that give every weight the filters its first one keeps."""
    first = next(iter(weights.values()))
    keep = ranked_keep(first, fraction)
    if keep is None:
        raise InputError(
            f"Distiller's leader loses no filter at {fraction:.6g}, which it refuses. Ask for more."
        )
    sizes = {name: weight.shape[0] for name, weight in weights.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(
            f"All weights that follow Distiller's leader must have as many filters. Got {sizes}."
        )
    return {name: axis_mask(keep, weight, 0) for name, weight in weights.items()}


def _rule(method: DistillerMethod) -> Rule:
    return level if method.norm is None else partial(ranked, norm=method.norm, axis=method.axis)


def distiller_masks(
    weights: Mapping[str, Tensor], method: DistillerMethod, sparsity: float, agp_steps: int
) -> dict[str, Tensor]:
    """Return Distiller's mask of every weight, each ranked alone; all True where Distiller makes none.

    Raises `InputError`, naming the weight, where Distiller raises.
    """
    fraction = agp_target(sparsity, agp_steps) if method.agp else sparsity
    rule = _rule(method)
    masks = {}
    for name, weight in weights.items():
        try:
            mask = rule(weight.detach(), fraction)
        except InputError as error:
            raise type(error)(f"The weight {name} cannot be pruned as Distiller does. {error}") from None
        masks[name] = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
    return masks
