"""The part of ``prune`` that says what the model is worth in the whole numbers of the chip that it is for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    """Return `result` with the accuracy of the model before and after the cut in its report, where a chip and data are known.

    Raises:
        InputError: a model does not run on the data.
    """
    chip = chip_of(options)
    if chip is None or data is None:
        return result
    models = {"full size": model, "thinned" if options.prune.thin else "masked": result.model}
    accuracy = chip_accuracy(models, inputs, chip, data=data)
    report = replace(result.report, sections=(*result.report.sections, accuracy))
    return replace(result, report=report)
