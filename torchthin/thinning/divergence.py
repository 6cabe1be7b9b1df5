"""Finds the first op after which a thinned model differs from the reference, by short fingerprints of every result."""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.dependency.propagate import Labels
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import CountingMode, following
from torchthin.graph.operators import as_outputs
from torchthin.graph.opgraph import BRANCH
from torchthin.thinning.reference import Reference, ReferenceMode
from torchthin.thinning.survivors import Survivors

Fingerprint = tuple[tuple[int, ...], Tensor]
"""Shape, and two sums over the numbers."""
SAMPLE = 2**20
STRIDES = (1, 11, 37, 127, 521)
"""Primes that sizes of axes are rarely multiples of, so that every channel is read."""


class _Fingerprints(CountingMode):
    """Takes short fingerprints of every op's results; where `survivors` are given, of what is kept of them."""

    def __init__(self, labels: Labels, survivors: Survivors | None, start: int) -> None:
        super().__init__(start, labels.graph.call_sites[start])
        self._ops = labels.graph.by_index
        self._survivors = survivors
        self._consumed = labels.graph.users.keys() | set(labels.graph.outputs)
        self.found: dict[int, list[Fingerprint]] = {}

    def note(self, result: Any) -> None:
        """Take the fingerprints of the op that has just run."""
        op = self._ops.get(self.completed) if self.recorded else None
        if op is None:
            return
        prints = []
        for ref, tensor in zip(op.outputs, as_outputs(result), strict=False):
            if ref is None or ref.value not in self._consumed or tensor is None:
                continue  # saved means that nothing reads may be rounding noise
            if tensor.is_floating_point():
                kept = tensor if self._survivors is None else self._survivors.select(ref.value, tensor)
                prints.append((tuple(kept.shape), fingerprint(kept)))
        self.found[self.completed] = prints

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.compute(func, args, kwargs)
        self.note(result)
        return result


class _ReferenceFingerprints(ReferenceMode):
    """A reference that takes fingerprints."""

    def __init__(self, reference: Reference, start: int) -> None:
        super().__init__(reference, start)
        self.fingerprints = _Fingerprints(reference.labels, reference.survivors, start)

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op as the thinned model must, and take the fingerprints of its results."""
        result = super().execute(func, args, kwargs)
        self.fingerprints.completed, self.fingerprints.recorded = self.completed, self.recorded
        self.fingerprints.note(result)
        return result


def fingerprint(tensor: Tensor) -> Tensor:
    """Return a weighted sum and the sum of absolute values.

    Of a large tensor a part is read, all over it: where models differ is a hint for the search, and no proof.
    """
    flat = tensor.detach().reshape(-1)
    size = flat.numel()
    part = flat[:: next((p for p in STRIDES if size <= p * SAMPLE), size // SAMPLE + 1)].double()
    return torch.stack([part @ _directions(str(flat.device))[: part.numel()], part.abs().sum()]).cpu()


@lru_cache(maxsize=8)
def _directions(device: str) -> Tensor:
    return torch.cos(torch.arange(SAMPLE, dtype=torch.float64, device=device) * 1.7)


def first_divergence(
    masked: nn.Module,
    thinned: nn.Module,
    inputs: Inputs,
    reference: Reference,
    start: int,
    tolerance: float,
    moved: Container[int] = (),
    skipped: Container[int] = (),
) -> int | None:
    """Return the index of the first op after which the thinned model differs from the reference, if there is one.

    Args:
        masked: the masked model, which runs as the reference says.
        thinned: the thinned model.
        inputs: what both run on.
        reference: what the thinned model must compute.
        start: 0 for the evaluation run, `BRANCH` for the training branch.
        tolerance: largest relative difference of two fingerprints.
        moved: ops whose results may be other numbers, of the same shapes.
        skipped: ops whose results may differ.
    """
    expected = _ReferenceFingerprints(reference, start)
    found = _Fingerprints(reference.labels, None, start)
    run(masked, inputs, expected)
    run(thinned, inputs, found)
    for index, prints in expected.fingerprints.found.items():
        if index in skipped:
            continue
        others = found.found.get(index, [])
        agree = len(prints) == len(others) and all(
            shape == other and (index in moved or close(a, b, tolerance))
            for (shape, a), (other, b) in zip(prints, others, strict=True)
        )
        if not agree:
            return index
    return None


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two fingerprints agree; NaN agrees with NaN, and an infinite size says nothing more."""
    size = float(a[1]) if bool(torch.isfinite(a[1])) else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * (size + 1e-12), equal_nan=True)


def run(model: nn.Module, inputs: Inputs, mode: CountingMode, *, disposable: bool = False) -> Any:
    """Call a model under `mode`; in training mode if its ops count from `BRANCH`. `disposable`: it is not run again."""
    training = mode.completed >= BRANCH
    with (
        evaluation_mode(model, training_branch=training, disposable=disposable),
        mode.sparing(model),
        following(model, mode),
    ):
        return call(model, inputs)
