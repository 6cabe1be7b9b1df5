"""One candidate -> its row: prune, thin, recover, measure."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from torchthin.config import PruneConfig
from torchthin.errors import BudgetError, ProofError, TargetMissedError
from torchthin.evaluation.bench.latency import bench
from torchthin.graph.cost import measure
from torchthin.graph.inputs import Inputs, on_device_of
from torchthin.io.calibration import BATCH, Calibration, picked
from torchthin.max7800x.chip_cost import chip_cost
from torchthin.pruning.comparison.evaluator import Judge
from torchthin.pruning.comparison.grid import target_of
from torchthin.pruning.comparison.row import DENSE, Row
from torchthin.pruning.one_shot import prune_with
from torchthin.pruning.recover import recover
from torchthin.pruning.result import PruneResult

HELD_OUT = 4
"""One of so many inputs of the data judges only: nothing learns from it."""
FEWEST = 4
"""With fewer inputs none is held out."""


@dataclass(frozen=True)
class Recovery:
    """How thinned models are recovered from the data."""

    epochs: int = 0
    outputs: str = "values"


@dataclass(frozen=True)
class Work:
    """What an evaluation needs, in whichever process it runs."""

    model: nn.Module
    inputs: Inputs
    data: Calibration | None
    """What criteria and recovery learn from."""
    judge: Judge
    recovery: Recovery | None
    chip: str | None
    repeats: int
    """Latency: measured runs of either model; 0: none."""
    seed: int

    def dense(self) -> Row:
        """Return the row of the model as it is."""
        begin = time.perf_counter()
        row = replace(Row(DENSE, value=self.judge.dense, channel_sparsity=0.0), **self._costs(self.model))
        # It took turns with itself: their difference is chance.
        return replace(row, latency_ms=row.dense_latency_ms, seconds=time.perf_counter() - begin)

    def row(self, config: PruneConfig) -> Row:
        """Return the row of one candidate; with the reason where it cannot be made."""
        begin = time.perf_counter()
        named = Row(config.method, config.rule.criterion, target_of(config))
        try:
            result = self._made(config)
        except (BudgetError, ProofError, TargetMissedError) as error:
            return replace(named, failure=str(error), seconds=time.perf_counter() - begin)
        notes = () if result.report.target_reached else ("less went than was asked",)
        costs = self._costs(result.model)
        row = replace(
            named,
            value=self.judge.value(result.model),
            channel_sparsity=result.report.channel_sparsity,
            **{**costs, "notes": (*notes, *costs["notes"])},
        )
        return replace(row, seconds=time.perf_counter() - begin)

    def _made(self, config: PruneConfig) -> PruneResult:
        result = prune_with(self.model, config, self.inputs, data=self.data)
        if self.data is None or self.recovery is None or result.recipe is None:
            return result
        how = self.recovery
        return recover(
            self.model, result, self.inputs, self.data, epochs=how.epochs, outputs=how.outputs, seed=self.seed
        )

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


def split(model: nn.Module, data: Calibration, held_out: bool) -> tuple[Calibration, tuple[Inputs, ...], int]:
    """Return what to learn from, the batches to judge on, and how many inputs those hold out of the learning.

    The last quarter is held out; nothing with fewer than `FEWEST` inputs, or where `held_out` is False.
    """
    if not held_out or data.samples < FEWEST:
        batches = tuple(on_device_of(model, batch) for batch in data.batches)
        return data, batches, 0
    every, held = data.joined(), data.samples // HELD_OUT
    numbers = torch.arange(data.samples).split([data.samples - held, held])
    learned, judged = (
        tuple(on_device_of(model, picked(every, part)) for part in numbers_of.split(BATCH))
        for numbers_of in numbers
    )
    return Calibration(learned, data.samples - held, data.notes), judged, held
