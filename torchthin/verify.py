"""Stage 8: does the thinned model compute what the masked model computes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

TOLERANCE_DOUBLE = 1e-6
TOLERANCE_SINGLE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """How far two values of one output are apart."""

    output: int
    shape: tuple[int, ...]
    max_error: float
    """Largest absolute difference."""
    scale: float
    """Largest absolute value of the expected output."""

    @property
    def relative(self) -> float:
        """`max_error` in units of `scale`."""
        return self.max_error / self.scale if self.scale > 0 else self.max_error


@dataclass(frozen=True)
class Proof:
    """The comparison of a thinned model with its masked model."""

    outputs: tuple[Agreement, ...]
    """Against the reference: the masked model in which channels that go are constants."""
    masked: tuple[Agreement, ...]
    """Against the masked model as it is; larger where a constant met padding or statistics lost channels."""
    dtype: str
    tolerance: float
    problem: str | None = None

    @property
    def relative(self) -> float:
        """Largest relative error over all outputs, against the reference."""
        return max((a.relative for a in self.outputs), default=0.0)

    @property
    def relative_to_masked(self) -> float:
        """Largest relative error over all outputs, against the masked model as it is."""
        return max((a.relative for a in self.masked), default=0.0)

    @property
    def vacuous(self) -> bool:
        """Whether some output says nothing: empty, or all zero (an untrained head that starts at zero)."""
        return any(agreement.scale == 0.0 for agreement in self.outputs) or not self.outputs

    @property
    def holds(self) -> bool:
        """Whether every output agrees within the tolerance."""
        return self.problem is None and self.relative <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return the proof as JSON-able data."""
        return {**asdict(self), "relative": self.relative, "relative_to_masked": self.relative_to_masked, "holds": self.holds}


def compare(masked: Any, expected: Any, actual: Any, double: bool) -> Proof:
    """Compare model outputs (any nesting of tensors).

    Args:
        masked: outputs of the masked model.
        expected: outputs of the reference.
        actual: outputs of the thinned model.
        double: the models ran in float64.
    """
    tolerance = TOLERANCE_DOUBLE if double else TOLERANCE_SINGLE
    dtype = "float64" if double else "as given"
    lists = [_tensors(item) for item in (masked, expected, actual)]
    shapes = [[tuple(t.shape) for t in tensors] for tensors in lists]
    if shapes[1] != shapes[2]:
        problem = f"output shapes differ: {shapes[1]} masked, {shapes[2]} thinned"
        return Proof((), (), dtype, tolerance, problem)
    return Proof(_agreements(lists[1], lists[2]), _agreements(lists[0], lists[2]), dtype, tolerance)


def joined(proofs: Sequence[Proof]) -> Proof:
    """Return several comparisons of the same models as one."""
    first = proofs[0]
    outputs = tuple(agreement for proof in proofs for agreement in proof.outputs)
    masked = tuple(agreement for proof in proofs for agreement in proof.masked)
    problem = next((proof.problem for proof in proofs if proof.problem), None)
    return Proof(outputs, masked, first.dtype, first.tolerance, problem)


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]


def _agreements(expected: list[Tensor], actual: list[Tensor]) -> tuple[Agreement, ...]:
    return tuple(_agreement(i, a, b) for i, (a, b) in enumerate(zip(expected, actual, strict=True)))


def _agreement(number: int, expected: Tensor, actual: Tensor) -> Agreement:
    a, b = expected.double(), actual.double()
    if not a.numel():
        return Agreement(number, tuple(a.shape), 0.0, 0.0)
    same = (a == b) | (torch.isnan(a) & torch.isnan(b))
    error = torch.where(same, torch.zeros_like(a), (a - b).abs()).nan_to_num(nan=float("inf"))
    scale = a.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().max()
    return Agreement(number, tuple(a.shape), float(error.max()), float(scale))
