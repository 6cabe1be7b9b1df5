"""A candidate: made for every point of a grid, pruned, thinned, recovered and measured, which gives its row."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Protocol

from torch import nn

from torchthin.config import Limit, PruneConfig, Recovery, Target
from torchthin.errors import BudgetError, ConfigError, InputError, ProofError, TargetMissedError
from torchthin.evaluation.bench.latency import bench
from torchthin.evaluation.distance import NOT_FINITE
from torchthin.evaluation.evaluator import Evaluator
from torchthin.graph.cost import measure
from torchthin.graph.inputs import Inputs
from torchthin.graph.sample import Sample, one_sample
from torchthin.io.calibration import Calibration
from torchthin.pruning.comparison.comparison import DENSE, Row
from torchthin.pruning.one_shot import plan_pruning
from torchthin.pruning.recover import recover
from torchthin.pruning.result import PruneResult


def grid(
    targets: Iterable[Target | float], criteria: Iterable[str | None] = (None,), **common: Any
) -> tuple[PruneConfig, ...]:
    """Return one configuration for every target and criterion, each once.

    Args:
        targets: such as ``0.5``, ``Budget(macs="0.5x")``.
        criteria: what ranks channels; None: the target's own.
        common: other fields of `PruneConfig`, the same for all.

    Raises:
        ConfigError: the grid is empty, or one of its points is no configuration.

    >>> [(target_of(config), config.criterion) for config in grid([0.5, 0.75], ["l1"])]
    [('sparsity 0.5', 'l1'), ('sparsity 0.75', 'l1')]
    """
    points = product(targets, criteria)
    made = tuple(dict.fromkeys(PruneConfig(*point, **common) for point in points))  # type: ignore[arg-type]
    if not made:
        raise ConfigError("The grid of compare is empty. Give at least one target and one criterion.")
    return made


def key_of(config: PruneConfig) -> str:
    """Return a text that no other candidate has."""
    return json.dumps(config.to_dict(), sort_keys=True)


def target_of(config: PruneConfig) -> str:
    """Return the target in words, such as ``sparsity 0.5`` or ``MACs 0.5x``."""
    limits: Mapping[str, Limit] = getattr(config.target, "limits", {})  # of a budget or a chip
    words = {"macs": "MACs", "kernel_words": "kernel words"}
    found = [f"{words.get(name, name)} {limits[name].text}" for name in sorted(limits)]
    return ", ".join(found) or f"sparsity {config.target.share:g}"


class OnChip(Protocol):
    """A chip on which models are costed, such as `torchthin.Chip`."""

    @property
    def name(self) -> str:
        """Of the chip."""

    def cycles_of(self, model: nn.Module, inputs: Inputs) -> tuple[int | None, str]:
        """Return the cycles of one run (None where the model does not map), and what keeps it from fitting."""


def recovered_result(
    model: nn.Module,
    inputs: Inputs,
    data: Calibration | None,
    recovery: Recovery | None,
    config: PruneConfig,
) -> PruneResult:
    """Return what a configuration makes of `model`; criteria and recovery learn from `data`."""
    result = plan_pruning(model, inputs, config, data=data).apply()
    if data is None or recovery is None or result.recipe is None:
        return result
    return recover(model, result, inputs, data, recovery=recovery)


@dataclass(frozen=True)
class Measurement:
    """What is measured of a model, in whichever process it runs."""

    model: nn.Module
    """The dense one."""
    inputs: Inputs
    evaluator: Evaluator
    cost: OnChip | None = None
    repeats: int = 0
    """Latency: measured runs of either model; 0: none."""

    @cached_property
    def sample(self) -> Sample:
        """What multiply-accumulates are counted for."""
        return one_sample(self.model, self.inputs)

    def dense(self) -> Row:
        """Return the row of the dense model."""
        begin = time.perf_counter()
        row = replace(Row(DENSE, value=self.evaluator.dense, channel_sparsity=0.0), **self._costs(self.model))
        # It took turns with itself: their difference is chance.
        return replace(row, latency_ms=row.dense_latency_ms, seconds=time.perf_counter() - begin)

    def row(self, make: Callable[[PruneConfig], PruneResult], config: PruneConfig) -> Row:
        """Return the row of what `make` returns for a candidate; with the reason where it cannot be made."""
        begin = time.perf_counter()
        named = Row(config.method, config.ranked_by, target_of(config))
        try:
            result = make(config)
        except (BudgetError, ProofError, TargetMissedError) as error:
            return replace(named, failure=str(error), seconds=time.perf_counter() - begin)
        costs = self._costs(result.model)
        if not result.report.target_reached:
            costs["notes"] = ("less was removed than was asked for", *costs["notes"])
        value = self.evaluator.value(result.model)
        if not math.isfinite(value):
            raise InputError(NOT_FINITE)
        row = replace(named, value=value, channel_sparsity=result.report.total.channel_sparsity, **costs)
        return replace(row, seconds=time.perf_counter() - begin)

    def _costs(self, model: nn.Module) -> dict[str, Any]:
        cost = measure(model, self.sample)
        found: dict[str, Any] = {
            "macs": cost.macs,
            "macs_per_sample": cost.macs_per_sample,
            "parameters": cost.parameters,
            "parameter_bytes": cost.parameter_bytes,
            "notes": (),
        }
        if self.cost is not None:
            found["cycles"], note = self.cost.cycles_of(model, self.inputs)
            found["notes"] = (note,) if note else ()
        if self.repeats:
            timing = bench(
                self.model, model, self.inputs, repeats=self.repeats, warmup=2, runtimes=("torch",)
            ).timings[0]
            found["latency_ms"] = statistics.median(timing.thinned_ms)
            found["dense_latency_ms"] = statistics.median(timing.dense_ms)
        return found
