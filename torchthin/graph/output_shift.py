"""The output shift of ADI's ai8x: a statistic of all weights of a layer that is picked by rank, recorded as one operator.

ai8x sorts the weights and picks at a place that depends on how many there are. What follows is a power of two that scales weights
and is taken back from the outputs, so a thinned layer with another one differs by rounding alone; as one operator it can be
computed anew from the weights that are left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

MAX_SHIFT = 15.0
OUTPUT_SHIFT = "torchthin.output_shift"
"""The operator's name in a record."""


class OutputShiftLimit(nn.Module):
    """Derives the output shift of a layer from its weights, as the module of this name in ai8x does.

    Args:
        shift_quantile: 1.0: from the largest weight.
    """

    def __init__(self, shift_quantile: float = 1.0) -> None:
        super().__init__()
        self.shift_quantile = shift_quantile

    def forward(self, parameters: torch.Tensor, output_shift: torch.Tensor) -> torch.Tensor:
        """Return the shift, (), for weights and biases (n,); the present shift (1,) does not count."""
        return largest_value_shift(parameters, self.shift_quantile)


def largest_value_shift(parameters: torch.Tensor, quantile: float) -> torch.Tensor:
    """Derive the output shift, () or (1,), from the largest weight or bias among the `parameters` of a layer.

    shift = -clamp(floor(log2(1 / limit)), -15, 15), where limit is the `quantile` of |weights and biases|
    (1.0: the maximum).
    """
    limit = sorted_quantile(parameters.abs().flatten().sort()[0], quantile)
    return -(1.0 / limit).log2().floor().clamp(min=-MAX_SHIFT, max=MAX_SHIFT)


def sorted_quantile(ordered: torch.Tensor, quantile: float) -> torch.Tensor:
    """Return the quantile of ascending `ordered` (n,), points placed at (i + 1/2) / n as in ai8x-training.

    Between the points at `below` and `below + 1` the value is extrapolated with the fraction
    quantile * (n - 1) - below, which is the rule the chip's training tool uses, not numpy's.
    """
    last = len(ordered) - 1
    if last == 0 or quantile == 1.0:
        return ordered[last]
    count = last + 1
    places = torch.linspace(1 / (2 * count), (2 * count - 1) / (2 * count), count, device=ordered.device)
    below = torch.searchsorted(places, quantile, side="right").clamp(1, last) - 1
    return ordered[below] + (quantile * last - below) * (ordered[below + 1] - ordered[below])


_LIBRARY = torch.library.Library("torchthin", "DEF")
_LIBRARY.define("output_shift(Tensor self, float quantile) -> Tensor")
_LIBRARY.impl("output_shift", largest_value_shift, "CompositeExplicitAutograd")


@contextlib.contextmanager
def as_one_operator(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block, modules that derive output shifts run as one operator."""
    found = [module for module in modules if _derives_shift(module)]
    for module in found:
        module.forward = _Shift(module.shift_quantile)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for module in found:
            del module.forward


class _Shift:
    def __init__(self, quantile: float) -> None:
        self.quantile = quantile

    def __call__(self, parameters: torch.Tensor, output_shift: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = torch.ops.torchthin.output_shift(parameters, self.quantile)
        return made


def _derives_shift(module: nn.Module) -> bool:
    """Whether it is the module of ai8x, found by its name and what it has."""
    if type(module).__name__ != OutputShiftLimit.__name__ or "forward" in vars(module):
        return False
    return isinstance(getattr(module, "shift_quantile", None), float)
