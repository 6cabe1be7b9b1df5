"""``torchthin chip``: what a model costs on a MAX78000 or MAX78002, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import printing
from torchthin.cli.data_args import MetricArgs, data_option, named_metric
from torchthin.cli.flags_from_fields import Command, json_option, like, part
from torchthin.cli.model_args import PositionalModelArgs
from torchthin.config import Pixels, Recovery, option
from torchthin.errors import ConfigError, TargetMissedError
from torchthin.max7800x.chips import chip_named, list_chips
from torchthin.max7800x.target import Chip

if TYPE_CHECKING:
    from torch import nn

    from torchthin.io.calibration import Calibration
    from torchthin.max7800x.accuracy import ChipAccuracy
    from torchthin.max7800x.bits import ChosenBits
    from torchthin.max7800x.cost.layer import WeightBits
    from torchthin.max7800x.report import ChipReport

AUTO = "auto"
"""Bits that are chosen layer by layer."""


@dataclass(frozen=True)
class ChipArgs:
    """Which chip."""

    chip: str | None = like(Chip, "name", default=None)
    weight_bits: str | int = option(
        8,
        "--weight-bits",
        "bits of a weight, 1, 2, 4 or 8, in layers that do not say it themselves; auto: layer by layer, those that change the "
        "outputs on --data least, within --target-kernel-words (default: 8)",
        "BITS",
    )
    kernel_words: str | int | None = like(Chip, "kernel_words")

    def __post_init__(self) -> None:
        bits = str(self.weight_bits)
        if bits != AUTO and not bits.isdigit():
            raise ConfigError(f"The --weight-bits must be 1, 2, 4, 8 or {AUTO}. Got {bits!r}.")
        object.__setattr__(self, "weight_bits", AUTO if bits == AUTO else int(bits))
        if bits == AUTO and self.kernel_words is None:
            raise ConfigError(
                "The --weight-bits auto needs --target-kernel-words, such as 0.6x of what 8 bits take."
            )
        if bits != AUTO and self.kernel_words is not None:
            raise ConfigError("The --target-kernel-words goes with --weight-bits auto here. Give both.")

    def bits(
        self, chip: str, model: nn.Module, inputs: Any, data: Calibration | None
    ) -> tuple[WeightBits, ChosenBits | None]:
        """Return the bits of the layers, and how they were chosen, if they were.

        Raises:
            ConfigError: they are to be chosen, and there are no data.
            TargetMissedError: no bits reach the target.
        """
        if isinstance(self.weight_bits, int):
            return self.weight_bits, None
        from torchthin.max7800x.bits import choose_weight_bits

        if data is None:
            raise ConfigError("The --weight-bits auto needs --data, on which outputs are compared.")
        found = choose_weight_bits(model, inputs, data, chip, kernel_words=str(self.kernel_words))
        return found.bits, found


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
    chip, data = options.chip.chip or "", _data(options.accuracy, inputs)
    bits, chosen = options.chip.bits(chip, model, inputs, data)
    report = chip_cost(model, inputs, chip, bits)
    notes = report.notes if chosen is None else (*report.notes, str(chosen).removesuffix("."))
    return replace(report, notes=notes, accuracy=_accuracy(options, model, inputs, data, bits))


def _data(asked: AccuracyArgs, inputs: Any) -> Calibration | None:
    if asked.data is None:
        return None
    from torchthin.graph.inputs import as_inputs
    from torchthin.io.calibration import calibration

    return calibration(asked.data, like=as_inputs(inputs), max_samples=asked.max_samples, pixels=asked.pixels)


def _accuracy(
    options: ChipOptions, model: nn.Module, inputs: Any, data: Calibration | None, bits: WeightBits
) -> ChipAccuracy | None:
    """Return what the model is worth in whole numbers; None where there is nothing to measure it on."""
    if data is None and options.accuracy.metric is None:
        return None
    from torchthin.max7800x.accuracy import chip_accuracy

    with named_metric(options.accuracy.metric) as metric:
        return chip_accuracy(
            {"model": model}, inputs, options.chip.chip or "", data=data, metric=metric, weight_bits=bits
        )


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
