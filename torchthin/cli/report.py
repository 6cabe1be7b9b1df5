"""``torchthin report``: the HTML report of a saved checkpoint, or of a report's JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchthin.cli.console import Parser
from torchthin.cli.flags import given_flags, talk_aside
from torchthin.cli.model_args import add_common_arguments
from torchthin.cli.options import add_model_arguments
from torchthin.cli.report_files import check_report, network_of, sensitivity_from, write_report
from torchthin.errors import ConfigError

DESCRIPTION = (
    "Write the report of a pruned checkpoint, or of a report's JSON, as one HTML file that needs no network."
)
EXAMPLE = """\
example:
  %(prog)s pruned.pth --to pruned.html --model-factory models/net.py:small --input-shape 1,3,128,128
"""


@dataclass(frozen=True)
class ReportOptions:
    """All a report is told."""

    file: str
    to: str | None = None
    plots: str | None = None
    sensitivity: str | None = None
    model_factory: str | None = None
    factory_args: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    input_shape: tuple[str, ...] = ()
    device: str = "cpu"
    json: bool = False


def add_report_arguments(parser: Parser) -> None:
    """Add the flags of ``report`` to `parser`."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="pruned checkpoint, or the JSON of prune --report or prune --json",
    )
    add_model_arguments(parser)
    writing = parser.add_argument_group("report")
    writing.add_argument(
        "--to",
        metavar="FILE",
        help="page to write, with its JSON beside it (default: FILE with the ending .html)",
    )
    writing.add_argument("--plots", metavar="FOLDER", help="PNG plots as well (extra plot)")
    writing.add_argument(
        "--sensitivity", metavar="FILE", help="curves to show: what torchthin sensitivity --save-to wrote"
    )
    add_common_arguments(writing)


def report_options(namespace: argparse.Namespace) -> ReportOptions:
    """Return the options that were given, over the defaults.

    Raises:
        ConfigError: no file was named, or a checkpoint twice.
    """
    given = given_flags(namespace)
    if given.get("file") is None:
        raise ConfigError("A file is needed: a pruned checkpoint, or the JSON of a report.")
    if "checkpoint" in given:
        raise ConfigError("The checkpoint of report is its FILE. Leave --checkpoint out.")
    return ReportOptions(**given)


def run(options: ReportOptions) -> int:
    """Read, write, say what was written, and return the exit code."""
    with talk_aside(options.json):
        source = Path(options.file)
        to = options.to or str(source.with_suffix(".html"))
        check_report(to, options.plots)
        record = _record(source)
        network, curves = _network(options, record["report"]), sensitivity_from(options.sensitivity)
        record = {
            **record,
            "network": network or record["network"],
            "sensitivity": curves or record["sensitivity"],
        }
        for path in write_report(record, to, options.plots):
            print(f"Saved {path}.")
    if options.json:
        print(json.dumps(record, indent=2))
    return 0


def _record(source: Path) -> dict[str, Any]:
    from torchthin.io.checkpoints import read_checkpoint
    from torchthin.report.record import read_record, run_record

    if source.suffix == ".json":
        return read_record(source)
    entry = read_checkpoint(source).torchthin
    if entry is None or not isinstance(entry.get("report"), dict):
        raise ConfigError(f"The checkpoint {source} holds no report: it was not pruned by torchthin.")
    return run_record(entry["report"], entry.get("config") or {}, title=source.name)


def _network(options: ReportOptions, report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Draw the full-size class, if it was named, and is what was pruned."""
    if options.model_factory is None:
        return None
    from torchthin.cli.model_args import needed_inputs
    from torchthin.io.factory import build_model

    inputs = needed_inputs(options)
    model = build_model(options.model_factory, options.factory_args)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    for layer in report["layers"]:
        if shapes.get(layer["name"]) != list(layer["shape"]):
            raise ConfigError(
                f"The model factory {options.model_factory} must return the model that was pruned. {layer['name']} was "
                f"{tuple(layer['shape'])}, here it is {_shape(shapes.get(layer['name']))}. Name the full-size class."
            )
    return network_of(model.to(options.device), inputs)


def _shape(sizes: list[int] | None) -> str:
    return "missing" if sizes is None else str(tuple(sizes))
