"""The learning rate that a model bears: deep networks are thrown off by steps that shallow ones need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

HALVINGS = 10
"""The highest rate is halved at most so often."""
SETTLING = 8
"""A run of so many times as many steps bears so many times the rate: what the first steps lose, the others win back."""


def borne_lr(
    parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor], highest: float, steps: int
) -> float:
    """Return the learning rate of Adam for a run of so many steps, at most `highest`.

    Adam's first step moves every weight by the rate, up or down. The rate at which this step alone does not raise the loss is
    found by bisection; half of it lowers a quadratic loss most. That is multiplied by the number of times that `SETTLING` steps
    fit into the run. The parameters are as before afterwards.

    Args:
        parameters: what is trained.
        loss: on one batch.
        highest: the rate for models that bear it.
        steps: of the whole run.
    """
    before = loss()
    gradients = torch.autograd.grad(before, parameters, allow_unused=True)
    kept = [parameter.detach().clone() for parameter in parameters]

    def is_borne(halvings: int) -> bool:
        with torch.no_grad():
            for parameter, old, gradient in zip(parameters, kept, gradients, strict=True):
                if gradient is not None:
                    parameter.copy_(old - highest / 2**halvings * gradient.sign())
            return bool(loss() <= before)

    low, high = 0, HALVINGS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_borne(middle) else (middle + 1, high)
    with torch.no_grad():
        for parameter, old in zip(parameters, kept, strict=True):
            parameter.copy_(old)
    return float(min(highest, highest / 2 ** (high + 1) * max(1.0, steps / SETTLING)))
