"""Ridge regression in closed form, drawn towards the old weights (Hoerl & Kennard 1970), from second moments of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridges that are tried, in units of the mean variance of an input."""
HELD_OUT = 0.2
"""Share of the rows, the last ones, that choose among the ridges."""
GAIN = 1e-3
"""Share of the error by which new weights must be better."""

Part = tuple[Tensor, Tensor]
"""Some rows of inputs, (groups, rows, inputs), and of targets, (groups, rows, outputs)."""


@dataclass(frozen=True)
class Fit:
    """Weights that reproduce the targets better than the old ones, on rows that were not fitted."""

    weight: Tensor
    """(groups, outputs, inputs)"""
    bias: Tensor | None
    """(groups, outputs); None where nothing can be added."""


def fit(
    parts: Iterable[Part], rows: int, weight: Tensor, bias: Tensor | None, *, intercept: bool
) -> Fit | None:
    """Return the best fit of ``targets = inputs @ weight.T + bias``, or None where the old weights are as good.

    Minimises ``|Y - X W'|^2 / n + r |W - W_old|^2`` for each group; r is a strength times the mean of the inputs' variance.
    Of each part only its second moments are kept.

    Args:
        parts: the rows, a part at a time.
        rows: how many there are in all parts.
        weight: (groups, outputs, inputs), the old ones.
        bias: (groups, outputs), the old one, if any.
        intercept: whether a bias may be fitted.
    """
    cut = rows - max(1, int(HELD_OUT * rows))
    if cut < 2:
        return None
    trained, tested = _moments(_residuals(parts, weight, bias), cut, intercept=intercept)
    before = tested.error(torch.zeros_like(tested.across.mT), torch.zeros_like(tested.target_sum))
    best, strength = before, None
    for candidate in STRENGTHS:
        error = tested.error(*trained.solved(candidate, intercept=intercept))
        if error < best:
            best, strength = error, candidate
    if strength is None or best > (1 - GAIN) * before:
        return None
    delta, shift = trained.joined(tested).solved(strength, intercept=intercept)
    added = (shift if bias is None else shift + bias.double()) if intercept else None
    return Fit(weight.double() + delta, added)


def _residuals(parts: Iterable[Part], weight: Tensor, bias: Tensor | None) -> Iterator[Part]:
    """Yield the inputs, and what the old weights leave of the targets."""
    for x, y in parts:
        made = x @ weight.mT if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)
        yield x, y - made


def _moments(parts: Iterable[Part], cut: int, *, intercept: bool) -> tuple[_Moments, _Moments]:
    """Return the moments of the first `cut` rows, and of the others; see `fit`."""
    first: _Moments | None = None
    second: _Moments | None = None
    seen = 0
    for x, y in parts:
        here = min(max(cut - seen, 0), x.shape[1])
        seen += x.shape[1]
        if first is None:
            first = second = _Moments.empty(x, y, intercept=intercept)
        assert second is not None
        first = first.plus(x[:, :here], y[:, :here]) if here else first
        second = second.plus(x[:, here:], y[:, here:]) if here < x.shape[1] else second
    assert first is not None and second is not None
    return first, second


@dataclass(frozen=True)
class _Moments:
    """Sums over rows of inputs x, of what is to be explained y, and of their products.

    Where a bias is fitted, inputs are taken less `origin`, a mean of theirs: products of float32 lose little then. Sums are in
    float64.
    """

    origin: Tensor
    """(groups, 1, inputs)"""
    count: int
    input_sum: Tensor
    """(groups, inputs)"""
    target_sum: Tensor
    """(groups, outputs)"""
    within: Tensor
    """Sum of x x', (groups, inputs, inputs)."""
    across: Tensor
    """Sum of x y', (groups, inputs, outputs)."""
    power: Tensor
    """Sum of the squares of y, ()."""

    @classmethod
    def empty(cls, x: Tensor, y: Tensor, *, intercept: bool) -> _Moments:
        """Return the sums of no rows; x, y: the first ones; intercept: see `fit`."""
        groups, _, inputs = x.shape
        zeros = torch.zeros(groups, inputs, inputs, dtype=torch.float64, device=x.device)
        across = zeros.new_zeros(groups, inputs, y.shape[2])
        origin = x.mean(1, keepdim=True) if intercept else torch.zeros_like(x[:, :1])
        return cls(origin, 0, zeros[:, 0], across[:, 0], zeros, across, zeros.new_zeros(()))

    def plus(self, x: Tensor, y: Tensor) -> _Moments:
        """Return the sums with more rows."""
        x = x - self.origin
        return _Moments(
            self.origin,
            self.count + x.shape[1],
            self.input_sum + x.sum(1, dtype=torch.float64),
            self.target_sum + y.sum(1, dtype=torch.float64),
            self.within + x.mT @ x,
            self.across + x.mT @ y,
            self.power + y.square().sum(dtype=torch.float64),
        )

    def joined(self, other: _Moments) -> _Moments:
        """Return the sums over the rows of both."""
        return replace(
            self,
            count=self.count + other.count,
            input_sum=self.input_sum + other.input_sum,
            target_sum=self.target_sum + other.target_sum,
            within=self.within + other.within,
            across=self.across + other.across,
            power=self.power + other.power,
        )

    def error(self, delta: Tensor, shift: Tensor) -> float:
        """Return the mean square of what ``x delta' + shift`` leaves of y; delta, shift as `solved` returns them."""
        shift = shift + (delta @ self.origin.mT.double())[..., 0]
        explained = (delta @ self.input_sum[..., None])[..., 0]
        products = 2 * (delta.mT * self.across).sum() - ((delta @ self.within) * delta).sum()
        shifted = 2 * (shift * (self.target_sum - explained)).sum() - self.count * shift.square().sum()
        return float(self.power - products - shifted) / (self.count * self.target_sum.numel())

    def solved(self, strength: float, *, intercept: bool) -> tuple[Tensor, Tensor]:
        """Return what to add to the weights, (groups, outputs, inputs), and to the bias, (groups, outputs)."""
        within, across = self.within / self.count, self.across / self.count
        input_mean, target_mean = self.input_sum / self.count, self.target_sum / self.count
        origin = self.origin[:, 0].double()
        if intercept:
            within = within - input_mean[..., None] * input_mean[:, None]
            across = across - input_mean[..., None] * target_mean[:, None]
        size = within.shape[-1]
        mean = within.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
        ridge = torch.eye(size, dtype=within.dtype, device=within.device) * (strength * mean)[:, None, None]
        factor, failed = torch.linalg.cholesky_ex(within + ridge)
        if bool(failed.any()):
            empty = across.new_zeros(across.mT.shape)
            return empty, empty.new_zeros(empty.shape[:2])
        delta = torch.cholesky_solve(across, factor).mT
        if not intercept:
            return delta, torch.zeros_like(target_mean)
        return delta, target_mean - (delta @ (origin + input_mean)[..., None])[..., 0]
