"""``torchthin chip``: what a model costs on a MAX78000 or MAX78002, and whether it fits."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchthin.chips.table import chip_named, chip_names
from torchthin.cli.options import add_model_arguments
from torchthin.cli.shell import Parser
from torchthin.errors import ConfigError, TargetMissedError

if TYPE_CHECKING:
    from torchthin.report.chip_facts import ChipReport

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
    parser.add_argument(
        "model",
        metavar="MODULE:FUNCTION",
        nargs="?",
        help="function that returns the model, as --model-factory",
    )
    add_model_arguments(parser)
    cost = parser.add_argument_group("chip")
    cost.add_argument("--chip", metavar="NAME", help=f"one of {', '.join(chip_names())}")
    cost.add_argument(
        "--weight-bits", metavar="BITS", type=int, help="of layers that do not say it themselves (default: 8)"
    )
    cost.add_argument("--json", action="store_true", help="figures as JSON on stdout, all else on stderr")
    cost.add_argument("--debug", action="store_true", help="show the traceback of an error")


def chip_options(namespace: argparse.Namespace) -> ChipOptions:
    """Return the options that were given, over the defaults.

    Raises:
        ConfigError: the model factory or the chip is missing, or there is no such chip.
    """
    given = dict(vars(namespace))
    given.pop("debug", None)
    model = given.pop("model", None)
    if model is not None and "model_factory" in given:
        raise ConfigError(
            f"The model must be given once. Got {model} and --model-factory {given['model_factory']}."
        )
    if model is not None:
        given["model_factory"] = model
    if "model_factory" not in given:
        raise ConfigError("A model factory is needed: package.module:function or path/to/file.py:function.")
    if "chip" not in given:
        raise ConfigError(f"A chip is needed. Give --chip, one of {', '.join(chip_names())}.")
    chip_named(given["chip"])
    return ChipOptions(**{**given, "input_shape": tuple(given.get("input_shape", ()))})


def run(options: ChipOptions) -> int:
    """Measure, print and return the exit code. With ``--json``, stdout gets nothing but the JSON.

    Raises:
        TargetMissedError: the model does not fit.
    """
    stdout = sys.stdout
    redirected = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    with redirected:  # the user's model may print as well
        report = _report(options)
        if not options.json:
            print(report)
    if options.json:
        print(json.dumps(report.to_dict(), indent=2), file=stdout)
    if not report.fits:
        first, *more = report.obstacles
        others = f" And {len(more)} more." if more else ""
        raise TargetMissedError(f"The model does not fit {report.cost.chip}. {first}.{others}")
    return 0


def _report(options: ChipOptions) -> ChipReport:
    from torchthin.chipcost import chip_cost
    from torchthin.cli.inputs import example_inputs, placed, usable_device
    from torchthin.cli.model import load_model
    from torchthin.cli.outcome import Voice

    device = usable_device(options.device)
    inputs = example_inputs(options.input_shape, options.dataset)
    if inputs is None:
        raise ConfigError("An input size is needed. Give --input-shape 1,3,128,128 or --dataset.")
    model, _ = load_model(options, Voice(quiet=options.checkpoint is None))
    return chip_cost(placed(model, device), inputs, options.chip, options.weight_bits)
