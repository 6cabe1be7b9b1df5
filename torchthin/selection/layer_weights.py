"""Single weights of one layer, chosen by what its inputs are: Wanda, and SparseGPT with its update of the weights that are kept.

Wanda: Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models" (arXiv 2306.11695). SparseGPT:
Frantar & Alistarh 2023, "Massive Language Models Can Be Accurately Pruned in One-Shot" (arXiv 2301.00774).
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchthin.config import NM, Target
from torchthin.selection.channels import smallest
from torchthin.selection.nm import pattern_mask

BLOCK = 128
"""Columns whose masks are chosen together; those after them are updated once for all of a block."""
DAMP = 1e-2
"""Ridge on the second moments of the inputs, in units of their mean square."""
STEPS = 32
"""Steps of conjugate gradients, at most, with which the weights that are kept are fitted at the end."""
TINY = 1e-38
"""What stands for zero where a row has nothing left to fit."""
ENOUGH = 1e-6
"""Share of the first gradient's norm at which the fit ends."""


def wanda_keep(weight: Tensor, power: Tensor, target: Target) -> Tensor:
    """Return which weights are kept: those of largest ``|w| * |x|`` in every row, or of every m side by side.

    weight: (outputs, inputs). power: (inputs,) or of the weight's shape, mean square of every input.
    target: `Unstructured` or `NM`. Returns bool of the weight's shape. Ties by index.
    """
    scores = weight.abs() * power.sqrt()
    if isinstance(target, NM):
        return pattern_mask(scores, target.n, target.m, 1)
    rows, columns = weight.shape
    ends = torch.tensor([target.units(columns * row) for row in range(rows + 1)], device=weight.device)
    ranks = scores.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks >= ends.diff()[:, None]


def sparsegpt(weight: Tensor, moments: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Return new weights and which of them are kept, so that the layer's outputs change little.

    Columns go from left to right. A weight w costs ``w^2 / u^2``, with u the diagonal entry of the upper Cholesky factor of the
    inverse of the inputs' second moments: the error after the columns to the right have been refitted (Hassibi & Stork
    1993). In every block of columns the cheapest weights of all rows go, and each removal updates the columns to the
    right. At the end all weights that are kept are fitted to the old outputs together, the left ones too. Where that comes
    out worse than the largest weights as they are (few of little correlated inputs), those are kept and fitted.

    weight: (outputs, inputs). moments: (inputs, inputs), mean of ``x x^T``. target: `Unstructured` or `NM`.
    """
    damped = damped_moments(moments)
    upper = _inverse_factor(damped)
    block = BLOCK - BLOCK % target.m or target.m if isinstance(target, NM) else BLOCK
    new, keep = weight.double().clone(), torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    for start in range(0, weight.shape[1], block):
        columns = slice(start, min(start + block, weight.shape[1]))
        _prune_block_(new, keep, upper, columns, target)
    wide = weight.double()
    plain = _largest(wide, target)
    new = fitted(wide, damped, keep, new)
    if error_of(wide - wide * plain, damped) < error_of(wide - new, damped):
        return fitted(wide, damped, plain, wide), plain
    return new, keep


def _largest(weight: Tensor, target: Target) -> Tensor:
    """Return which weights are kept where magnitude decides."""
    if isinstance(target, NM):
        return pattern_mask(weight.abs(), target.n, target.m, 1)
    return ~smallest(weight.abs().flatten(), target.units(weight.numel())).reshape(weight.shape)


def error_of(change: Tensor, moments: Tensor) -> float:
    """Return the mean square by which the outputs of a layer change, added up over them."""
    return float(((change @ moments) * change).sum())


def _prune_block_(new: Tensor, keep: Tensor, upper: Tensor, columns: slice, target: Target) -> None:
    """Choose the masks of some columns, and update these and all to their right, in place."""
    diagonal, pattern = upper.diagonal(), isinstance(target, NM)
    if not pattern:
        gone = int((~keep[:, : columns.start]).sum())
        count = target.units(len(new) * columns.stop) - gone
        costs = (new[:, columns] / diagonal[columns]).square()
        keep[:, columns] = ~smallest(costs.flatten(), count).reshape(costs.shape)
    errors = torch.zeros_like(new[:, columns])
    for column in range(columns.start, columns.stop):
        if isinstance(target, NM) and (column - columns.start) % target.m == 0:
            own = slice(column, column + target.m)
            keep[:, own] = pattern_mask((new[:, own] / diagonal[own]).square(), target.n, target.m, 1)
        error = new[:, column] * ~keep[:, column] / diagonal[column]
        new[:, column : columns.stop] -= error[:, None] * upper[column, column : columns.stop]
        errors[:, column - columns.start] = error
    new[:, columns.stop :] -= errors @ upper[columns, columns.stop :]


def damped_moments(moments: Tensor) -> Tensor:
    """Return second moments in float64 with the ridge, which is `DAMP` where no input ever differs from zero."""
    wide = moments.double()
    ridge = DAMP * (float(wide.diagonal().mean()) or 1.0)
    return wide + ridge * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)


def _inverse_factor(moments: Tensor) -> Tensor:
    """Return the upper triangular u with ``u^T u`` the inverse."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def fitted(weight: Tensor, moments: Tensor, keep: Tensor, start: Tensor) -> Tensor:
    """Return the weights, zero where `keep` is false, whose outputs are nearest to those of `weight`.

    By conjugate gradients over all rows at once, with the inputs' mean squares as the preconditioner, from `start`.
    moments: (inputs, inputs), positive definite.
    """
    kind = (
        torch.float64 if len(moments) <= BLOCK else torch.float32
    )  # in half the time; rounding is far below the ridge
    weight, moments, start = weight.to(kind), moments.to(kind), start.to(kind)
    scale = moments.diagonal()
    new = start * keep
    residual = ((weight - new) @ moments) * keep
    direction = residual / scale
    power = (residual * direction).sum(1)
    least = ENOUGH**2 * float(power.max())
    for _ in range(min(STEPS, weight.shape[1])):
        if float(power.max()) <= least:
            break
        image = (direction @ moments) * keep
        step = power / (direction * image).sum(1).clamp_min(TINY)
        new = new + step[:, None] * direction
        residual = residual - step[:, None] * image
        before, scaled = power, residual / scale
        power = (residual * scaled).sum(1)
        direction = scaled + (power / before.clamp_min(TINY))[:, None] * direction
    return new.double()
