"""Samples of every value of a run, by which the first op is found after which a thinned model differs from the reference.

They are taken as the ops run, so that nothing has to run again to find it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import MOVES, as_outputs
from torchthin.graph.opgraph import Op
from torchthin.graph.precision import Precision
from torchthin.thinning.survivors import Survivors, indices

MOST = 4096
"""Numbers that are kept of a value, about."""

Sample = tuple[tuple[int, ...], Tensor]
"""The shape that is left, and some of the numbers."""


class Samples:
    """What was kept of the results of one run's ops."""

    def __init__(self, survivors: Survivors, *, thinned: bool) -> None:
        """`thinned`: the run is the thinned model's, whose values have lost what `survivors` say."""
        self._labels, graph = survivors.labels, survivors.labels.graph
        self._survivors = survivors
        self._thinned = thinned
        self._ops = graph.by_index
        self._consumed = graph.users.keys() | set(graph.ends)
        self.found: dict[int, list[Sample]] = {}

    def note(self, index: int, result: Any) -> None:
        """Take samples of the results of an op."""
        op = self._ops.get(index)
        # weights that are only turned around are what they were
        if op is not None and not (op.name in MOVES and self._labels.from_input.isdisjoint(op.results)):
            self.found[index] = list(self._of(op, result))

    def _of(self, op: Op, result: Any) -> list[Sample]:
        return [
            self._sample(ref.value, tensor)
            for ref, tensor in zip(op.outputs, as_outputs(result), strict=False)
            # saved means that nothing reads may be rounding noise
            if ref is not None and tensor is not None and ref.value in self._consumed
            if tensor.is_floating_point()
        ]

    def _sample(self, value: int, tensor: Tensor) -> Sample:
        """Take numbers from all over a tensor, of every channel that is left as long as these are not too many."""
        cuts, room = {}, MOST
        shape = list(tensor.shape)
        # where values decide which ops run, this may be the tensor of another one
        known = len(self._labels.values.get(value, ()))
        for axis in self._labelled_first(value, tensor.dim()):
            kept = self._survivors.along(value, axis) if axis < known else None
            full = kept is not None and not self._thinned and kept.size == shape[axis]
            shape[axis] = int(kept.sum()) if kept is not None and full else shape[axis]
            step = -(-shape[axis] // room)
            room = max(room // max(-(-shape[axis] // max(step, 1)), 1), 1)
            if kept is not None and full:
                cuts[axis] = indices(kept, tensor)[::step]
            elif step > 1:
                tensor = tensor[(slice(None),) * axis + (slice(None, None, step),)]
        for axis in sorted(
            cuts, key=lambda axis: len(cuts[axis]) / tensor.shape[axis]
        ):  # the most goes first
            tensor = tensor.index_select(axis, cuts[axis])
        return tuple(shape), tensor.detach() if cuts else tensor.detach().clone()

    def _labelled_first(self, value: int, rank: int) -> list[int]:
        axes = self._labels.values.get(value, ())
        return sorted(range(rank), key=lambda axis: axis >= len(axes) or axes[axis] is None)


def first_difference(
    expected: Samples,
    found: Samples,
    precision: Precision,
    moved: Container[int] = (),
    skipped: Container[int] = (),
) -> int | None:
    """Return the index of the first op after which two runs differ, if there is one.

    Args:
        expected: of the reference.
        found: of the thinned model.
        precision: in which both ran.
        moved: ops whose results may be other numbers, of the same shapes.
        skipped: ops whose results may differ.
    """
    for index, samples in expected.found.items():
        others = found.found.get(index, [])
        agree = len(samples) == len(others) and all(
            shape == other and (index in moved or close(a, b, precision.located))
            for (shape, a), (other, b) in zip(samples, others, strict=True)
        )
        if index not in skipped and not agree:
            return index
    return None


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two samples agree; NaN agrees with NaN, and an infinite number says nothing of the size of others."""
    if not a.numel():
        return a.shape == b.shape
    largest = float(torch.linalg.vector_norm(a, torch.inf))
    if largest < torch.inf and float(torch.linalg.vector_norm(a - b, torch.inf)) <= tolerance * largest:
        return True  # nearly always, in a quarter of the time
    size = float(a.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * (size + 1e-12), equal_nan=True)


class SampledRun(CountingMode):
    """Runs the thinned model and takes samples."""

    def __init__(self, survivors: Survivors, start: int) -> None:
        super().__init__(start, survivors.labels.graph.call_sites[start])
        self.samples = Samples(survivors, thinned=True)

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run one op."""
        result = self.compute(func, args, dict(kwargs))
        if self.recorded:
            self.samples.note(self.completed, result)
        return result
