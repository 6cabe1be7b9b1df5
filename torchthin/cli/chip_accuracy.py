"""The part of ``prune`` that says what the model is worth in the whole numbers of the chip that it is for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torchthin.cli.data_args import named_metric
from torchthin.cli.prune_files import chip_of
from torchthin.cli.prune_options import PruneOptions
from torchthin.max7800x.accuracy import chip_accuracy

if TYPE_CHECKING:
    from torch import nn

    from torchthin.io.calibration import Calibration
    from torchthin.pruning.result import PruneResult


def with_chip_accuracy(
    model: nn.Module, result: PruneResult, inputs: Any, data: Calibration | None, options: PruneOptions
) -> PruneResult:
    """Return `result` with the accuracy before and after the cut in its report, where a chip is known, and data or a metric.

    Raises:
        InputError: a model does not run on the data, or the metric cannot be found or fails.
    """
    chip = chip_of(options)
    if chip is None or (data is None and options.report.metric is None):
        return result
    models = {"full size": model, "thinned" if options.prune.thin else "masked": result.model}
    with named_metric(options.report.metric) as metric:
        accuracy = chip_accuracy(models, inputs, chip, data=data, metric=metric)
    report = replace(result.report, sections=(*result.report.sections, accuracy))
    return replace(result, report=report)
