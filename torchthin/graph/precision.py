"""In which floating point type a copy of a model computes, whatever type its own weights have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.clone import share
from torchthin.graph.deferred import Deferred
from torchthin.graph.inputs import Inputs

_WIDE = frozenset({torch.float32, torch.float64})


@dataclass(frozen=True)
class Precision:
    """A floating point type, and how far two models that compute the same in it may be apart."""

    dtype: torch.dtype | None
    """Narrower types are widened to it; None: everything is computed as the model would."""
    name: str
    """For people."""
    tolerance: float
    """Largest difference, as a share of the largest value of an output."""
    located: float
    """The same of the result of a single op, by which the first one that differs is told."""

    def of(self, dtype: torch.dtype) -> torch.dtype:
        """Return the type that takes the place of another one."""
        wider = self.dtype is not None and dtype.is_floating_point
        return self.dtype if wider and dtype not in (self.dtype, torch.float64) else dtype  # type: ignore[return-value]

    def shared(self, name: str, tensor: Tensor, deferred: Deferred | None = None) -> Tensor:
        """Exchange that keeps parameters which are wide enough, copies buffers and widens the rest.

        With `deferred`, large tensors are widened only while an op reads them.
        """
        dtype = self.of(tensor.dtype)
        if dtype == tensor.dtype:
            return share(name, tensor)
        if deferred is None or not deferred.takes(tensor):
            return tensor.detach().to(dtype)
        like, memory = tensor.new_empty(0, dtype=dtype), deferred.memory
        return deferred.placeholder(
            tuple(tensor.shape), like, lambda: memory.converted(tensor.detach(), dtype)
        )

    def inputs(self, inputs: Inputs) -> Inputs:
        """Return inputs in this precision."""
        return inputs.map(lambda tensor: tensor.to(self.of(tensor.dtype)))

    def arguments(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of an op with the type that it asks for in this precision."""
        asked = arguments.get("dtype")
        if not isinstance(asked, torch.dtype) or self.of(asked) is asked:
            return arguments
        return {**arguments, "dtype": self.of(asked)}


DOUBLE = Precision(torch.float64, "float64", 1e-6, 1e-7)
SINGLE = Precision(torch.float32, "float32", 1e-3, 1e-3)
AS_GIVEN = Precision(None, "as given", 1e-3, 1e-3)


def is_narrow(model: nn.Module) -> bool:
    """Whether a model has weights of a floating point type below float32."""
    return any(p.is_floating_point() and p.dtype not in _WIDE for p in model.parameters())


def is_complex(model: nn.Module) -> bool:
    """Whether a model has complex weights, which stay as they are."""
    return any(p.is_complex() for p in model.parameters())


def precision_of(dtypes: Iterable[torch.dtype]) -> Precision:
    """Return the precision of outputs that a model computed without help."""
    return DOUBLE if set(dtypes) == {torch.float64} else AS_GIVEN
