"""Measured times: of one operator on real tensors, and of whole models run in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from torchthin.evaluation.bench.latency import in_torch, run_in_turns, waiting
from torchthin.graph.clone import clone, share
from torchthin.graph.inputs import Inputs
from torchthin.graph.operators import invoke
from torchthin.graph.opgraph import Op

_WARMUP = 3
_SECONDS_OF_LAYER = 0.004
"""That the runs of one layer at one width take, as far as the least and the most runs allow."""
_LAYER_RUNS = (5, 20)
_SECONDS_OF_MODELS = 3.0
_MODEL_RUNS = (7, 50)
_BRIEFLY = 6
"""So many times less of both where a measurement is a courtesy."""


class Stopwatch(Protocol):
    """Measures; tests have one whose times are known beforehand."""

    def layer(self, op: Op, given: Mapping[str, Any]) -> float:
        """Return the nanoseconds of one call of an operator with these arguments."""

    def models(
        self, models: Sequence[nn.Module], inputs: Inputs, *, briefly: bool = False
    ) -> list[tuple[float, ...]]:
        """Return the nanoseconds of every run of each model, in turns; `briefly`: of few runs."""


class WallClock:
    """What the time of day says: medians after a warm-up, and not before the device has done all its work."""

    def layer(self, op: Op, given: Mapping[str, Any]) -> float:
        """Run an operator often enough; return the median."""
        devices = {each.device for each in given.values() if isinstance(each, torch.Tensor)}
        device = next(iter(devices), torch.device("cpu"))
        wait = waiting(device)

        def seconds(together: int) -> float:
            begin = time.perf_counter()
            for _ in range(together):
                invoke(op.target, given)
            wait()
            return (time.perf_counter() - begin) / together

        with torch.inference_mode(), _own_numbers(device):
            once = min(seconds(1) for _ in range(_WARMUP))
            together = 1 if device.type == "cpu" else 10  # else the way to the device and back is measured
            runs = _runs(_SECONDS_OF_LAYER / together, once, _LAYER_RUNS)
            return 1e9 * statistics.median(seconds(together) for _ in range(runs))

    def models(
        self, models: Sequence[nn.Module], inputs: Inputs, *, briefly: bool = False
    ) -> list[tuple[float, ...]]:
        """Run copies in evaluation mode in turns, so that other load of the machine slows all alike."""
        with _own_numbers(next(inputs.tensors()).device):
            copies = [clone(model, share).eval() for model in models]
            calls: list[Callable[[], object]] = [in_torch(model, inputs) for model in copies]
            begin = time.perf_counter()
            run_in_turns(calls, 1, _WARMUP)
            once = (time.perf_counter() - begin) / (1 + _WARMUP)
            runs = _runs(_SECONDS_OF_MODELS, once, _MODEL_RUNS)
            runs = max(runs // _BRIEFLY, 3) if briefly else runs
            return [tuple(1e9 * each for each in found) for found in run_in_turns(calls, runs, 0)]


def _own_numbers(device: torch.device) -> AbstractContextManager[None]:
    """Return a context after which torch's global generators are where they were, whatever a run draws."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _runs(seconds: float, once: float, bounds: tuple[int, int]) -> int:
    """Return how many runs of `once` fill so many seconds, within bounds."""
    least, most = bounds
    return min(max(int(seconds / max(once, 1e-9)), least), most)


@dataclass(frozen=True)
class Compared:
    """Two models that were run in turns."""

    before: float
    """Median, in nanoseconds."""
    after: float
    """The same times the median ratio of runs that followed each other: load that comes and goes slows both alike."""
    noise: float
    """Half the width of the interval, as a share, in which that ratio lies with 95 % confidence."""
    runs: int

    @property
    def saves_nothing(self) -> bool:
        """Whether the second model is not faster than the first one, as far as can be measured."""
        return self.after >= self.before * (1 - self.noise)


def in_turns(
    clock: Stopwatch, full: nn.Module, thinned: nn.Module, inputs: Inputs, *, briefly: bool = False
) -> Compared:
    """Return how long two models take, run in turns."""
    before, after = clock.models((full, thinned), inputs, briefly=briefly)
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    middle = statistics.median(ratios)
    # 1.4826 times the median deviation is the standard deviation of normal noise; a median's own error is 1.2533 of a mean's.
    deviation = 1.4826 * statistics.median(abs(ratio - middle) for ratio in ratios)
    noise = 1.96 * 1.2533 * deviation / len(ratios) ** 0.5 / middle
    full_time = statistics.median(before)
    return Compared(full_time, full_time * middle, noise, len(ratios))
