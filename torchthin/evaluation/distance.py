"""How far a model's outputs are from the dense model's: the one definition that sensitivity, compare and recover use.

For every floating output, the mean squared difference over the variance of the dense output; the distance is the mean over
the outputs. The variance is that of each entry over the inputs (of all entries where there is one input, or where batches
have outputs of different shapes). 0: equal; 1: no better than the mean of every entry over the inputs.

The difference from an output that does not vary (by more than rounding) is divided by its mean square instead, from one that
is zero by nothing. Left out are integer outputs, and those of different shapes in the two models: the caches of a thinned
attention, detections.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchthin.errors import InputError
from torchthin.graph.outputs import output_tensors

_ROUNDING = 8
"""An output does not vary if its deviation is below so many units in the last place of its size."""
NOT_FINITE = "The outputs of the model are not finite. Look for weights or data that overflow."
_INCOMPARABLE = (
    "The outputs cannot be compared with the dense model's: none is floating point and of the same shape in both. "
    "Give a metric where one can be given, or a model that returns numbers."
)


def output_distance(dense: Any, other: Any) -> Tensor:
    """Return the distance on one batch; its gradient flows to `other`. Both are what a model returns, of any nesting.

    Raises:
        InputError: no output can be compared.
    """
    pairs = zip(floating(dense), floating(other), strict=False)
    parts = [_error(a, b) / _unit(a) for a, b in pairs if a.shape == b.shape and a.numel()]
    if not parts:
        raise InputError(_INCOMPARABLE)
    return torch.stack(parts).mean()


def floating(outputs: Any) -> list[Tensor]:
    """Return the floating output tensors, always in the same order."""
    return [tensor for tensor in output_tensors(outputs) if tensor.is_floating_point()]


@dataclass(frozen=True)
class DenseOutputs:
    """The dense model's outputs on several batches; the distance to them is taken batch by batch."""

    batches: tuple[list[Tensor], ...]
    """Floating outputs."""
    units: tuple[float, ...]
    """What squared differences are divided by, for every output."""

    @classmethod
    def of(cls, batches: Iterable[list[Tensor]]) -> DenseOutputs:
        """Keep the outputs.

        Raises:
            InputError: none is floating point, or one is not finite.
        """
        kept = tuple(batches)
        units = tuple(float(_unit(_joined(column))) for column in zip(*kept, strict=False))
        if not units:
            raise InputError(_INCOMPARABLE)
        if not all(unit < float("inf") for unit in units):
            raise InputError(NOT_FINITE)
        return cls(kept, units)

    def distance(self, others: Iterable[list[Tensor]]) -> float:
        """Return the distance of a model's floating outputs on the same batches.

        Raises:
            InputError: no output can be compared.
        """
        errors, sizes = [0.0] * len(self.units), [0] * len(self.units)
        comparable = set(range(len(self.units)))
        for dense, other in zip(self.batches, others, strict=True):
            comparable = {n for n in comparable if n < len(other) and dense[n].shape == other[n].shape}
            for n in comparable:
                size = dense[n].numel()
                errors[n] += float(_error(dense[n], other[n])) * size if size else 0.0
                sizes[n] += size
        parts = [errors[n] / sizes[n] / self.units[n] for n in sorted(comparable) if sizes[n]]
        if not parts:
            raise InputError(_INCOMPARABLE)
        return sum(parts) / len(parts)


def _error(a: Tensor, b: Tensor) -> Tensor:
    return (_wide(a) - _wide(b)).square().mean()


def _unit(output: Tensor) -> Tensor:
    """Return what squared differences from a dense output (inputs, ...) are divided by."""
    if not output.numel():
        return torch.ones(())
    values = _wide(output)
    mean = values.mean(0, keepdim=True) if values.dim() and len(values) > 1 else values.mean()
    variance, size = (values - mean).square().mean(), values.square().mean()
    rounding = (_ROUNDING * torch.finfo(output.dtype).eps) ** 2 * size
    one = torch.ones_like(size)
    return torch.where(variance > rounding, variance, torch.where(size == 0, one, size))


def _wide(output: Tensor) -> Tensor:
    """Return an output in float32 at least: squares of halves vanish or overflow."""
    return output if output.dtype in (torch.float32, torch.float64) else output.float()


def _joined(column: Sequence[Tensor]) -> Tensor:
    """Return one output over all batches: (inputs, ...), or flat where its shape is not always the same."""
    fits = all(t.dim() and t.shape[1:] == column[0].shape[1:] for t in column)
    return torch.cat([t if fits else t.reshape(-1) for t in column])
