"""A candidate: made for every point of a grid, pruned, thinned, recovered and measured, which gives its row."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from torchthin.config import PruneConfig
from torchthin.errors import BudgetError, ConfigError, InputError, ProofError, TargetMissedError
from torchthin.evaluation.bench.latency import bench
from torchthin.evaluation.evaluator import Evaluator
from torchthin.graph.cost import measure
from torchthin.graph.inputs import Inputs
from torchthin.io.calibration import Calibration
from torchthin.max7800x.chip_cost import chip_cost
from torchthin.pruning.comparison.comparison import DENSE, Row
from torchthin.pruning.one_shot import prune_with
from torchthin.pruning.recover import recover
from torchthin.pruning.result import PruneResult
from torchthin.recovery.distillation import Distillation


def grid(
    methods: Iterable[str] = ("l1-structured",),
    criteria: Iterable[str | None] = (None,),
    *,
    sparsities: Iterable[float] = (),
    macs: Iterable[str] = (),
    params: Iterable[str] = (),
    **common: Any,
) -> tuple[PruneConfig, ...]:
    """Return one configuration for every method, criterion and target, each once.

    Args:
        methods: of `METHODS`.
        criteria: what ranks channels; None: the method's own.
        sparsities: target shares of channels (structured methods) or weights.
        macs: budgets of multiply-accumulates, such as "0.5x".
        params: budgets of parameters, in the same form.
        common: other fields of `PruneConfig`, the same for all.

    Raises:
        ConfigError: the grid is empty, or one of its points is no configuration.

    >>> [config.target_macs for config in grid(macs=["0.5x", "0.25x", "0.5x"])]
    ['0.5x', '0.25x']
    """
    targets: list[dict[str, Any]] = [
        *({"target_sparsity": value} for value in sparsities),
        *({"target_macs": value} for value in macs),
        *({"target_params": value} for value in params),
    ]
    ways = list(criteria)
    made = [
        PruneConfig(method=method, criterion=criterion, **{**common, "thin": True}, **target)
        for method in methods
        for criterion in ways
        for target in targets
    ]
    if not made:
        raise ConfigError(
            "The grid of compare is empty. Give at least one method, one criterion and one target (on the command line "
            "--target-sparsity, --target-macs or --target-params)."
        )
    return tuple(dict.fromkeys(made))


def key_of(config: PruneConfig) -> str:
    """Return what tells a candidate from all others."""
    return json.dumps(config.to_dict(), sort_keys=True)


def target_of(config: PruneConfig) -> str:
    """Return the target in words, such as ``sparsity 0.5`` or ``MACs 0.5x``."""
    if config.target_macs is not None or config.target_params is not None:
        asked = (("MACs", config.target_macs), ("parameters", config.target_params))
        return ", ".join(f"{name} {text}" for name, text in asked if text is not None)
    return f"sparsity {config.target_sparsity:g}"


@dataclass(frozen=True)
class Maker:
    """Prunes, thins and recovers one model."""

    model: nn.Module
    inputs: Inputs
    data: Calibration | None
    """What criteria and recovery learn from."""
    recovery: Distillation | None

    def __call__(self, config: PruneConfig) -> PruneResult:
        """Return what a configuration makes of the model."""
        result = prune_with(self.model, config, self.inputs, data=self.data)
        if self.data is None or self.recovery is None or result.recipe is None:
            return result
        how = self.recovery
        return recover(
            self.model, result, self.inputs, self.data, epochs=how.epochs, outputs=how.outputs, seed=how.seed
        )


@dataclass(frozen=True)
class Measurement:
    """What is measured of a model, in whichever process it runs."""

    model: nn.Module
    """The dense one."""
    inputs: Inputs
    evaluator: Evaluator
    chip: str | None = None
    repeats: int = 0
    """Latency: measured runs of either model; 0: none."""

    def dense(self) -> Row:
        """Return the row of the dense model."""
        begin = time.perf_counter()
        row = replace(Row(DENSE, value=self.evaluator.dense, channel_sparsity=0.0), **self._costs(self.model))
        # It took turns with itself: their difference is chance.
        return replace(row, latency_ms=row.dense_latency_ms, seconds=time.perf_counter() - begin)

    def row(self, make: Callable[[PruneConfig], PruneResult], config: PruneConfig) -> Row:
        """Return the row of what `make` returns for a candidate; with the reason where it cannot be made."""
        begin = time.perf_counter()
        named = Row(config.method, config.rule.criterion, target_of(config))
        try:
            result = make(config)
        except (BudgetError, ProofError, TargetMissedError) as error:
            return replace(named, failure=str(error), seconds=time.perf_counter() - begin)
        costs = self._costs(result.model)
        if not result.report.target_reached:
            costs["notes"] = ("less was removed than was asked for", *costs["notes"])
        value = self.evaluator.value(result.model)
        if not math.isfinite(value):
            raise InputError(
                "The outputs of the model are not finite. Look for weights or data that overflow."
            )
        row = replace(named, value=value, channel_sparsity=result.report.channel_sparsity, **costs)
        return replace(row, seconds=time.perf_counter() - begin)

    def _costs(self, model: nn.Module) -> dict[str, Any]:
        cost = measure(model, self.inputs)
        found: dict[str, Any] = {
            "macs": cost.macs,
            "parameters": cost.parameters,
            "parameter_bytes": cost.parameter_bytes,
            "notes": (),
        }
        if self.chip is not None:
            report = chip_cost(model, self.inputs, self.chip)
            found["cycles"] = None if report.unmapped else report.cost.cycles
            if not report.fits:
                found["notes"] = (f"does not fit {report.cost.chip}: {report.obstacles[0]}",)
        if self.repeats:
            timing = bench(
                self.model, model, self.inputs, repeats=self.repeats, warmup=2, runtimes=("torch",)
            ).timings[0]
            found["latency_ms"] = statistics.median(timing.thinned_ms)
            found["dense_latency_ms"] = statistics.median(timing.dense_ms)
        return found
