"""``torchthin chip``: what a model costs on a MAX78000 or MAX78002, and whether it fits."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Parser
from torchthin.cli.model_args import (
    add_common_arguments,
    add_subject_arguments,
    given_options,
    loaded,
    needed_inputs,
    tell,
)
from torchthin.errors import ConfigError, TargetMissedError
from torchthin.max7800x.chips import chip_named, list_chips

if TYPE_CHECKING:
    from torchthin.max7800x.report import ChipReport

DESCRIPTION = "Show what a model costs on a chip: kernel memory, data memory and cycles, and whether it fits."
EXAMPLE = """\
example:
  %(prog)s models/net.py:small --chip MAX78000 --input-shape 1,3,128,128
"""


@dataclass(frozen=True)
class ChipOptions:
    """All the command is told."""

    model_factory: str
    chip: str
    weight_bits: int = 8
    factory_args: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    input_shape: tuple[str, ...] = ()
    device: str = "cpu"
    json: bool = False


def add_chip_arguments(parser: Parser) -> None:
    """Add the flags of ``chip`` to `parser`."""
    add_subject_arguments(parser)
    cost = parser.add_argument_group("chip")
    cost.add_argument("--chip", metavar="NAME", help=f"one of {', '.join(list_chips())}")
    cost.add_argument(
        "--weight-bits",
        metavar="BITS",
        type=int,
        help="bits of a weight, 1, 2, 4 or 8, in layers that do not say it themselves (default: 8)",
    )
    add_common_arguments(cost)


def chip_options(namespace: argparse.Namespace) -> ChipOptions:
    """Return the options that were given, over the defaults.

    Raises:
        ConfigError: the model factory or the chip is missing, or there is no such chip.
    """
    given = given_options(namespace)
    if "chip" not in given:
        raise ConfigError(f"A chip is needed. Give --chip, one of {', '.join(list_chips())}.")
    chip_named(given["chip"])
    return ChipOptions(**given)


def run(options: ChipOptions) -> int:
    """Measure, print and return the exit code. With ``--json``, stdout gets nothing but the JSON.

    Raises:
        TargetMissedError: the model does not fit.
    """
    report = tell(lambda: _report(options), as_json=options.json)
    if not report.fits:
        first, *more = report.obstacles
        others = f" And {len(more)} more." if more else ""
        raise TargetMissedError(f"The model does not fit {report.cost.chip}. {first}.{others}")
    return 0


def _report(options: ChipOptions) -> ChipReport:
    from torchthin.max7800x.report import chip_cost

    inputs = needed_inputs(options)
    return chip_cost(loaded(options, options.device), inputs, options.chip, options.weight_bits)
