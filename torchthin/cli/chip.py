"""``torchthin chip``: what a model costs on a MAX78000 or MAX78002, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchthin.cli.console import printing
from torchthin.cli.flags import Command, json_option, like, part
from torchthin.cli.model_args import PositionalModelArgs
from torchthin.config import option
from torchthin.errors import ConfigError, TargetMissedError
from torchthin.max7800x.chips import chip_named, list_chips
from torchthin.max7800x.target import Chip

if TYPE_CHECKING:
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
class ChipOptions:
    """All options of the command."""

    model: PositionalModelArgs = part("model")
    chip: ChipArgs = part("chip")
    json: bool = json_option()

    def __post_init__(self) -> None:
        if self.chip.chip is None:
            raise ConfigError(f"A chip is needed. Give --chip, one of {', '.join(list_chips())}.")
        chip_named(self.chip.chip)


def _report(options: ChipOptions) -> ChipReport:
    from torchthin.max7800x.report import chip_cost

    model, inputs = options.model.load()
    return chip_cost(model, inputs, options.chip.chip or "", options.chip.weight_bits)


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
""",
    ChipOptions,
    printing(_report, _refuse_misfit),
)
