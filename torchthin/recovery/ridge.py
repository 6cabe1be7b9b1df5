"""Ridge regression in closed form, drawn towards the old weights (Hoerl & Kennard 1970)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridges that are tried, in units of the mean variance of an input."""
HELD_OUT = 0.2
"""Share of the rows, the last ones, that choose among the ridges."""
GAIN = 1e-3
"""Share of the error by which new weights must be better."""


@dataclass(frozen=True)
class Fit:
    """Weights that reproduce the targets better than the old ones, on rows that were not fitted."""

    weight: Tensor
    """(groups, outputs, inputs)"""
    bias: Tensor | None
    """(groups, outputs); None where nothing can be added."""


def fit(
    inputs: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, *, intercept: bool
) -> Fit | None:
    """Return the best fit of ``targets = inputs @ weight.T + bias``, or None where the old weights are as good.

    Minimises ``|Y - X W'|^2 / n + r |W - W_old|^2`` for each group; r is a strength times the mean of the inputs' variance.

    Args:
        inputs: (groups, rows, inputs).
        targets: (groups, rows, outputs).
        weight: (groups, outputs, inputs), the old ones.
        bias: (groups, outputs), the old one, if any.
        intercept: whether a bias may be fitted.
    """
    rows = inputs.shape[1]
    cut = rows - max(1, int(HELD_OUT * rows))
    if cut < 2:
        return None
    x, y, old = inputs.double(), targets.double(), weight.double()
    residual = y - x @ old.mT - (0.0 if bias is None else bias.double()[:, None])
    before = float(residual[:, cut:].square().mean())
    trained = _Sums.of(x[:, :cut], residual[:, :cut], intercept)
    best, strength = before, None
    for candidate in STRENGTHS:
        delta, shift = trained.solved(candidate)
        left = residual[:, cut:] - x[:, cut:] @ delta.mT - shift[:, None]
        error = float(left.square().mean())
        if error < best:
            best, strength = error, candidate
    if strength is None or best > (1 - GAIN) * before:
        return None
    delta, shift = _Sums.of(x, residual, intercept).solved(strength)
    added = (shift if bias is None else shift + bias.double()) if intercept else None
    return Fit(old + delta, added)


@dataclass(frozen=True)
class _Sums:
    """Second moments of inputs with themselves and with what is to be explained."""

    within: Tensor
    across: Tensor
    input_mean: Tensor
    target_mean: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, intercept: bool) -> _Sums:
        zero = x.new_zeros(())
        mx = x.mean(1, keepdim=True) if intercept else zero.expand(x.shape[0], 1, x.shape[2])
        my = y.mean(1, keepdim=True) if intercept else zero.expand(y.shape[0], 1, y.shape[2])
        n = x.shape[1]
        within = x.mT @ x / n - mx.mT @ mx
        across = x.mT @ y / n - mx.mT @ my
        return cls(within, across, mx[:, 0], my[:, 0])

    def solved(self, strength: float) -> tuple[Tensor, Tensor]:
        """Return what to add to the weights, (groups, outputs, inputs), and to the bias, (groups, outputs)."""
        size = self.within.shape[-1]
        mean = self.within.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
        ridge = (
            torch.eye(size, dtype=self.within.dtype, device=self.within.device)
            * (strength * mean)[:, None, None]
        )
        factor, failed = torch.linalg.cholesky_ex(self.within + ridge)
        if bool(failed.any()):
            empty = self.across.new_zeros(self.across.mT.shape)
            return empty, empty.new_zeros(empty.shape[:2])
        delta = torch.cholesky_solve(self.across, factor).mT
        return delta, self.target_mean - (delta @ self.input_mean[..., None])[..., 0]
