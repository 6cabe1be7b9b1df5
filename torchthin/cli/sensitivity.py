"""``torchthin sensitivity``: what losing channels costs, group by group."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Parser
from torchthin.cli.flags import flags_with_model, followed_inputs, talk_aside
from torchthin.cli.metric import (
    add_metric_argument,
    add_weights_arguments,
    add_workers_argument,
    evaluations_bar,
    named_metric,
)
from torchthin.cli.options import add_data_argument, add_model_arguments
from torchthin.config import CHANNEL_CRITERIA
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torchthin.selection.sensitivity_table import Sensitivity

DESCRIPTION = (
    "Measure what every group of channels costs at several ratios; prune --allocation spreads a budget by it."
)
EXAMPLE = """\
example:
  %(prog)s --model-factory models/net.py:small --checkpoint best.pth --input-shape 1,3,128,128 \\
      --data calibration.npy --cache scan.jsonl --workers 4 --save-to scan.json
  torchthin prune ... --target-macs 0.5x --allocation scan.json --thin
"""


@dataclass(frozen=True)
class SensitivityOptions:
    """All a scan is told."""

    model_factory: str
    factory_args: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    input_shape: tuple[str, ...] = ()
    device: str = "cpu"
    data: str | None = None
    metric: str | None = None
    ratios: tuple[float, ...] | None = None
    criterion: str | None = None
    weights: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    seed: int = 0
    cache: str | None = None
    workers: int = 1
    save_to: str | None = None
    json: bool = False


def add_sensitivity_arguments(parser: Parser) -> None:
    """Add the flags of ``sensitivity`` to `parser`."""
    add_model_arguments(parser)
    add_data_argument(parser, "the distance and for criteria, 256 of them", "noise")
    scan = parser.add_argument_group("scan")
    add_metric_argument(scan)
    scan.add_argument(
        "--ratios",
        metavar="SHARE",
        type=float,
        nargs="+",
        help="shares of a group to cut, between 0 and 1 (default: 0.1 0.2 ... 0.9)",
    )
    scan.add_argument(
        "--criterion",
        metavar="NAME",
        help=f"what says which channels go first: {', '.join(CHANNEL_CRITERIA)} (default: l1)",
    )
    add_weights_arguments(scan)
    scan.add_argument(
        "--seed", metavar="N", type=int, help="seed of random numbers that criteria draw (default: 0)"
    )
    scan.add_argument(
        "--cache",
        metavar="FILE",
        help="file that keeps each result at once: a run that was ended goes on from it",
    )
    add_workers_argument(scan)
    output = parser.add_argument_group("output")
    output.add_argument("--save-to", metavar="FILE", help="JSON file for prune --allocation")
    output.add_argument("--json", action="store_true", help="the same JSON on stdout, all else on stderr")
    output.add_argument("--debug", action="store_true", help="show the traceback of an error")


def sensitivity_options(namespace: argparse.Namespace) -> SensitivityOptions:
    """Return the options that were given, over the defaults.

    Raises:
        ConfigError: the model factory is missing.
    """
    return SensitivityOptions(**flags_with_model(namespace))


def run(options: SensitivityOptions) -> int:
    """Scan, print, write last, and return the exit code. With ``--json``, stdout gets nothing but the JSON."""
    with talk_aside(options.json):
        table = _scan(options)
        if not options.json:
            print(table)
        if options.save_to is not None:
            _save(Path(options.save_to), table)
            print(f"Saved {options.save_to}.")
    if options.json:
        print(json.dumps(table.to_dict(), indent=2))
    return 0


def _save(path: Path, table: Sensitivity) -> None:
    from torchthin.io.atomic import write_whole

    text = json.dumps(table.to_dict(), indent=2) + "\n"
    try:
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be written: {error.strerror}. Check --save-to.") from error


def _scan(options: SensitivityOptions) -> Sensitivity:
    from torchthin.cli.inputs import placed, usable_device
    from torchthin.cli.model import load_model
    from torchthin.cli.outcome import Voice
    from torchthin.cli.paths import files_read, refuse_same_files
    from torchthin.io.atomic import check_destination
    from torchthin.pruning.sensitivity import sensitivity

    if options.save_to is not None:
        check_destination(options.save_to)
    refuse_same_files(
        {"--save-to": options.save_to, "--cache": options.cache},
        files_read(options.checkpoint, options.model_factory, options.data),
    )
    inputs = followed_inputs(options)
    model, _ = load_model(options, Voice())
    ratios: dict[str, Any] = {} if options.ratios is None else {"ratios": options.ratios}
    with named_metric(options.metric) as metric, evaluations_bar() as progress:
        return sensitivity(
            placed(model, usable_device(options.device)),
            inputs,
            data=options.data,
            metric=metric,
            criterion=options.criterion,
            include=options.weights,
            exclude=options.keep,
            seed=options.seed,
            cache=options.cache,
            workers=options.workers,
            progress=progress,
            **ratios,
        )
