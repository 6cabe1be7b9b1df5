"""Layers timed at a few widths each, what is equal once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.evaluation.latency.cache import LatencyCache
from torchthin.evaluation.latency.stopwatch import Stopwatch
from torchthin.evaluation.latency.widths import Interpolated, Sizes, grid
from torchthin.evaluation.results import Progress
from torchthin.graph.operators import CONVOLUTIONS, MATRIX_PRODUCTS
from torchthin.graph.opgraph import Ref
from torchthin.selection.kernel_widths import block_of, kernel_width, weight_dtype
from torchthin.selection.layer_times import Duration, TimedLayer

_MOST_VARIABLES = 3
"""Axes that change on their own: an op with more (the concatenation of many branches) counts as what it takes at first."""
_TURNED = frozenset({"aten.t", "aten.transpose", "aten.permute"})


@dataclass(frozen=True)
class LayerTable:
    """Answers `torchthin.selection.layer_times.LayerTimes`; what its cache does not hold is measured."""

    whole: float
    kernel: int
    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    cache: LatencyCache
    clock: Stopwatch
    progress: Progress | None = None
    gain: float = 1.0

    @classmethod
    def of(
        cls, model: nn.Module, whole: float, cache: LatencyCache, clock: Stopwatch, progress: Progress | None
    ) -> LayerTable:
        """Return the table for a model that takes `whole` nanoseconds."""
        first = next(model.parameters())
        dtype = weight_dtype(model)
        last = any(
            tensor.dim() == 4
            and tensor.is_contiguous(memory_format=torch.channels_last)
            and not tensor.is_contiguous()
            for tensor in model.parameters()
        )
        kernel = kernel_width(first.device.type, dtype)
        return cls(whole, kernel, first.device, dtype, last, cache, clock, progress)

    def durations(self, layers: Sequence[TimedLayer]) -> list[Duration | None]:
        """Return how long each layer takes at any widths, None where it cannot be run alone.

        A layer that cannot be run at other widths than the full ones takes what it takes there.
        """
        asked = [_Asked(layer, self.kernel) for layer in layers]
        missing: dict[str, tuple[TimedLayer, Sizes]] = {}
        for each in asked:
            for sizes in each.points:
                key = self._key(each.layer, sizes)
                if key not in self.cache.known and key not in self.cache.failed:
                    missing.setdefault(key, (each.layer, sizes))
        self._measure(missing)
        return [self._duration(each) for each in asked]

    def _measure(self, missing: dict[str, tuple[TimedLayer, Sizes]]) -> None:
        """Measure what is not known."""
        try:
            for done, (key, (layer, sizes)) in enumerate(missing.items(), 1):
                given = self._arguments(layer, sizes)
                try:
                    self.cache.known[key] = self.clock.layer(layer.op, given)
                except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
                    self.cache.failed.add(key)  # an argument stands for the full width
                if self.progress is not None:
                    self.progress(done, len(missing))
        finally:
            if missing:
                self.cache.save()

    def _duration(self, asked: _Asked) -> Duration | None:
        keys = {sizes: self._key(asked.layer, sizes) for sizes in asked.points}
        if self.cache.failed.isdisjoint(keys.values()) and asked.grids:
            times = {sizes: self.cache.known[key] for sizes, key in keys.items()}
            return Interpolated(asked.grids, asked.blocks, times)
        full = self.cache.known.get(keys[asked.layer.sizes])
        return None if full is None else lambda sizes: full

    def _key(self, layer: TimedLayer, sizes: Sizes) -> str:
        """Return the text that stands for an op at some widths: its name, shapes and other arguments."""
        shapes = layer.shapes(sizes)

        def text(argument: Any) -> str:
            if isinstance(argument, Ref):
                turned = "t" if _is_turned(layer, argument.value) else ""
                return f"{'x'.join(map(str, shapes[argument.value]))}{turned}"
            if isinstance(argument, list | tuple):
                return f"[{','.join(map(text, argument))}]"
            return str(argument)

        given = {**layer.op.arguments, **_other_arguments(layer, shapes)}
        parts = " ".join(f"{name}={text(argument)}" for name, argument in given.items())
        return f"{layer.op.name} {parts}{' channels_last' if self.channels_last else ''}"

    def _arguments(self, layer: TimedLayer, sizes: Sizes) -> dict[str, Any]:
        """Return real arguments at some widths."""
        shapes = layer.shapes(sizes)
        made = {value: self._tensor(shape, _is_turned(layer, value)) for value, shape in shapes.items()}

        def real(argument: Any) -> Any:
            if isinstance(argument, Ref):
                return made[argument.value]
            return [real(each) for each in argument] if isinstance(argument, list | tuple) else argument

        given = {**layer.op.arguments, **_other_arguments(layer, shapes)}
        return {name: real(argument) for name, argument in given.items()}

    def _tensor(self, shape: Sizes, turned: bool) -> Tensor:
        own = torch.Generator(self.device).manual_seed(0)  # the user's global one stays where it is
        shape = shape[::-1] if turned else shape
        made = torch.rand(shape, dtype=self.dtype, device=self.device, generator=own)
        if turned:
            return made.t()
        return (
            made.contiguous(memory_format=torch.channels_last)
            if self.channels_last and made.dim() == 4
            else made
        )


class _Asked:
    """A layer, and the widths at which it is timed."""

    def __init__(self, layer: TimedLayer, kernel: int) -> None:
        self.layer = layer
        sizes = layer.sizes
        changing = sizes if len(sizes) <= _MOST_VARIABLES else ()
        self.grids = tuple(grid(size, kernel, len(sizes)) for size in changing)
        self.blocks = tuple(block_of(size, kernel) for size in changing)
        self.points: Iterable[Sizes] = list(itertools.product(*self.grids)) if changing else [sizes]


def _is_turned(layer: TimedLayer, value: int) -> bool:
    """Whether a matrix is read transposed, as linear layers read their weights."""
    producer = layer.graph.producer.get(value)
    matrix = layer.op.name in MATRIX_PRODUCTS and len(layer.graph.values[value].shape) == 2
    return matrix and producer is not None and producer.name in _TURNED


def _other_arguments(layer: TimedLayer, shapes: dict[int, tuple[int, ...]]) -> dict[str, Any]:
    """Return the arguments that repeat widths, at those of `shapes`."""
    op, values = layer.op, layer.graph.values
    data = op.value("input")
    if data is None:
        return {}
    if "normalized_shape" in op.arguments:
        return {"normalized_shape": list(shapes[data][-len(op.arguments["normalized_shape"]) :])}
    if op.name in CONVOLUTIONS and op.arguments["groups"] == values[data].shape[1] > 1:
        return {"groups": shapes[data][1]}
    return {}
