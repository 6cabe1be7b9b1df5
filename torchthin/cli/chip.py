"""``torchthin chip``: what a model costs on a MAX78000 or MAX78002, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import printing
from torchthin.cli.data_args import MetricArgs, data_option, named_metric
from torchthin.cli.flags import Command, json_option, like, part
from torchthin.cli.model_args import PositionalModelArgs
from torchthin.config import Pixels, Recovery, option
from torchthin.errors import ConfigError, TargetMissedError
from torchthin.max7800x.chips import chip_named, list_chips
from torchthin.max7800x.target import Chip

if TYPE_CHECKING:
    from torch import nn

    from torchthin.max7800x.accuracy import ChipAccuracy
    from torchthin.max7800x.report import ChipReport


@dataclass(frozen=True)
class ChipArgs:
    """Which chip."""

    chip: str | None = like(Chip, "name", default=None)
    weight_bits: int = option(
        8,
        "--weight-bits",
        "bits of a weight, 1, 2, 4 or 8, in layers that do not say it themselves (default: 8)",
        "BITS",
    )


@dataclass(frozen=True)
class AccuracyArgs:
    """On what the model is evaluated as the chip computes it."""

    data: str | None = data_option("the distance of its outputs in whole numbers", "none")
    metric: str | None = like(
        MetricArgs, "metric", help="function(model) that returns a number, higher is better (default: none)"
    )
    max_samples: int = like(Recovery, "max_samples")
    pixels: Pixels = part("accuracy in floating point, in quantisation-aware mode, and in 8-bit integers")


@dataclass(frozen=True)
class ChipOptions:
    """All options of the command."""

    model: PositionalModelArgs = part("model")
    chip: ChipArgs = part("chip")
    accuracy: AccuracyArgs = part(
        "accuracy in floating point, in quantisation-aware mode, and in 8-bit integers"
    )
    json: bool = json_option()

    def __post_init__(self) -> None:
        if self.chip.chip is None:
            raise ConfigError(f"A chip is needed. Give --chip, one of {', '.join(list_chips())}.")
        chip_named(self.chip.chip)


def _report(options: ChipOptions) -> ChipReport:
    from torchthin.max7800x.report import chip_cost

    model, inputs = options.model.load()
    chip, bits = options.chip.chip or "", options.chip.weight_bits
    return replace(chip_cost(model, inputs, chip, bits), accuracy=_accuracy(options, model, inputs))


def _accuracy(options: ChipOptions, model: nn.Module, inputs: Any) -> ChipAccuracy | None:
    """Return what the model is worth in whole numbers; None where there is nothing to measure it on."""
    asked, chip, bits = options.accuracy, options.chip.chip or "", options.chip.weight_bits
    if asked.data is None and asked.metric is None:
        return None
    from torchthin.graph.inputs import as_inputs
    from torchthin.io.calibration import calibration
    from torchthin.max7800x.accuracy import chip_accuracy

    data = None
    if asked.data is not None and asked.metric is None:
        data = calibration(
            asked.data, like=as_inputs(inputs), max_samples=asked.max_samples, pixels=asked.pixels
        )
    with named_metric(asked.metric) as metric:
        return chip_accuracy({"model": model}, inputs, chip, data=data, metric=metric, weight_bits=bits)


def _refuse_misfit(report: ChipReport) -> None:
    if not report.fits:
        first, *more = report.obstacles
        others = f" And {len(more)} more." if more else ""
        raise TargetMissedError(f"The model does not fit {report.cost.chip}. {first}.{others}")


COMMAND = Command.of(
    "Show what a model costs on a chip: kernel memory, data memory and cycles, and whether it fits.",
    """\
example:
  %(prog)s models/net.py:small --chip MAX78000 --input-shape 1,3,128,128
  %(prog)s models/net.py:small --checkpoint best.pth --chip MAX78000 --input-shape 1,3,128,128 --data pictures/
""",
    ChipOptions,
    printing(_report, _refuse_misfit),
)
