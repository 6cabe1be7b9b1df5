"""Ridge regression from second moments: what plain least squares gives, however the rows are divided."""

import pytest
import torch
from torch import Tensor

from torchthin.recovery.ridge import STRENGTHS, Part, fit


def _rows(offset: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 500, 6) + offset
    weight, bias = torch.randn(2, 3, 6), torch.randn(2, 3)
    y = x @ torch.randn(2, 6, 3) + 1 + 0.1 * torch.randn(2, 500, 3)
    return x, y, weight, bias


def _divided(x: Tensor, y: Tensor, sizes: list[int]) -> list[Part]:
    return list(zip(x.split(sizes, 1), y.split(sizes, 1), strict=True))


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("sizes", [[500], [1, 399, 100], [7, 300, 150, 43]])
def test_the_fit_is_that_of_least_squares(sizes: list[int], offset: float) -> None:
    x, y, weight, bias = _rows(offset)
    found = fit(_divided(x, y, sizes), 500, weight, bias, intercept=True)
    assert found is not None
    assert found.bias is not None
    ones = torch.ones(2, 500, 1, dtype=torch.float64)
    wanted = torch.linalg.lstsq(torch.cat([x.double(), ones], 2), y.double()).solution.mT
    assert torch.allclose(found.weight, wanted[..., :-1], atol=1e-3)
    made = x.double() @ found.weight.mT + found.bias[:, None]
    best = x.double() @ wanted[..., :-1].mT + wanted[..., -1][:, None]
    assert torch.allclose(made, best, atol=1e-3)


def test_without_a_bias_means_are_not_taken_out() -> None:
    x, _, weight, _ = _rows(3.0)
    y = x @ torch.randn(2, 6, 3)
    found = fit(_divided(x, y, [200, 300]), 500, weight, None, intercept=False)
    assert found is not None
    assert found.bias is None
    wanted = torch.linalg.lstsq(x.double(), y.double()).solution.mT
    assert torch.allclose(found.weight, wanted, atol=1e-3)


def test_the_strength_is_the_one_that_is_best_on_the_last_rows() -> None:
    """With hardly more rows than unknowns a strong ridge is better on other rows than a weak one."""
    torch.manual_seed(0)
    x, old = torch.randn(1, 50, 40), torch.randn(1, 2, 40)
    y = x @ old.mT + torch.randn(1, 50, 2) + 2
    found = fit([(x, y)], 50, old, torch.zeros(1, 2), intercept=True)
    assert found is not None
    x, y = x.double(), y.double()
    mean = x[:, :40].mean(1, keepdim=True)
    errors = []
    for strength in STRENGTHS:
        a, b = x[:, :40] - mean, y[:, :40] - x[:, :40] @ old.double().mT
        within = a.mT @ a / 40
        ridge = strength * within.diagonal(dim1=1, dim2=2).mean() * torch.eye(40)
        delta = torch.linalg.solve(within + ridge, a.mT @ (b - b.mean(1, keepdim=True)) / 40)
        left = y[:, 40:] - x[:, 40:] @ (old.double().mT + delta) - (b.mean(1) - (mean @ delta)[:, 0])[:, None]
        errors.append(float(left.square().mean()))
    best = STRENGTHS[min(range(len(errors)), key=errors.__getitem__)]
    mean = x.mean(1, keepdim=True)
    a, b = x - mean, y - x @ old.double().mT
    within = a.mT @ a / 50
    ridge = best * within.diagonal(dim1=1, dim2=2).mean() * torch.eye(40)
    delta = torch.linalg.solve(within + ridge, a.mT @ (b - b.mean(1, keepdim=True)) / 50)
    assert torch.allclose(found.weight, old.double() + delta.mT, atol=1e-4)


def test_old_weights_that_are_right_stay() -> None:
    x, _, weight, bias = _rows(0.0)
    assert fit([(x, x @ weight.mT + bias[:, None])], 500, weight, bias, intercept=True) is None
