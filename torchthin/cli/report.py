"""``torchthin report``, and what ``--report`` and ``--plots`` write of a run: the HTML page, its JSON twin, the PNG plots."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchthin.cli.console import print_json, stdout_to_stderr
from torchthin.cli.files import check_files, write_file, write_json
from torchthin.cli.flags_from_fields import Command, add_flags, json_option, like, part, read
from torchthin.cli.model_args import ModelArgs
from torchthin.cli.prune_options import ReportArgs
from torchthin.config import option
from torchthin.config.files import refuse_too_many
from torchthin.config.targets import AUTO, OUTPUTS
from torchthin.errors import ConfigError, InputError, TorchthinError, one_line


@dataclass(frozen=True)
class ReportFiles:
    """What is read and written."""

    file: str | None = option(
        None, "file", "pruned checkpoint, or the JSON of prune --report or prune --json", "FILE"
    )
    to: str | None = option(
        None, "--to", "page to write, with its JSON beside it (default: FILE with the ending .html)", "FILE"
    )
    plots: str | None = like(ReportArgs, "plots")
    sensitivity: str | None = like(
        ReportArgs, "sensitivity", help="curves to show: what torchthin sensitivity --save-to wrote"
    )

    @property
    def source(self) -> Path:
        """The checkpoint or JSON to read."""
        return Path(self.file or "")

    @property
    def page(self) -> str:
        """The page to write."""
        return self.to or str(self.source.with_suffix(".html"))


@dataclass(frozen=True)
class ReportOptions:
    """All options of a report."""

    files: ReportFiles = part("report")
    model: ModelArgs = part("model")
    json: bool = json_option()

    def __post_init__(self) -> None:
        if self.files.file is None:
            raise ConfigError("A file is needed: a pruned checkpoint, or the JSON of a report.")
        if self.model.checkpoint is not None:
            raise ConfigError("The checkpoint of report is its FILE. Leave --checkpoint out.")


def report_options(given: Mapping[str, Any]) -> ReportOptions:
    """Return the options; the model may be missing."""
    return read(ReportOptions, {"model_factory": "", **given})


def run(options: ReportOptions) -> int:
    """Read, write, say what was written, and return the exit code."""
    files = options.files
    with stdout_to_stderr(options.json), _damage_named(files.source):
        check_report(files.page, files.plots)
        record = _record(files.source)
        refuse_too_many(record)
        network, curves = _network(options, record["report"]), sensitivity_from(files.sensitivity)
        record = {
            **record,
            "network": network or record["network"],
            "sensitivity": curves or record["sensitivity"],
        }
        for path in write_report(record, files.page, files.plots):
            print(f"Saved {path}.")
    if options.json:
        print_json(record)
    return 0


@contextlib.contextmanager
def _damage_named(source: Path) -> Iterator[None]:
    """Within the block, raise what a report that lacks something or has it in another form leads to as an InputError."""
    try:
        yield
    except TorchthinError:
        raise
    except Exception as error:  # of the page, its template, or the plots
        raise InputError(
            f"The report in {source} is damaged: {one_line(error)}. Prune again, or take another file."
        ) from error


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
    """Return the diagram of the full-size class, where it was named; it must be the model that was pruned."""
    if not options.model.model_factory:
        return None
    model, inputs = options.model.load()
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    for layer in report["layers"]:
        shape = shapes.get(layer["name"])
        if shape != list(layer["shape"]):
            here = "missing" if shape is None else str(tuple(shape))
            raise ConfigError(
                f"The model factory {options.model.model_factory} must return the model that was pruned. {layer['name']} was "
                f"{tuple(layer['shape'])}, here it is {here}. Name the full-size class."
            )
    return network_of(model, inputs)


def check_report(report: str | None, plots: str | None) -> None:
    """Raise before anything runs when the files could not be written.

    Raises:
        ConfigError: the page does not end in .html.
        InputError: a file cannot be written, or a package is missing.
    """
    from torchthin.report.plots import check_plots

    if report is not None and Path(report).suffix != ".html":
        raise ConfigError(f"The file of --report must end in .html. Got {report}.")
    if plots is not None:
        check_plots()
    outputs = {**report_files(report), "--plots": plots and str(Path(plots) / "layers.png")}
    check_files(outputs, {})


def report_files(report: str | None) -> dict[str, str | None]:
    """Return what ``--report`` writes: the page, and the JSON beside it."""
    twin = None if report is None else str(Path(report).with_suffix(".json"))
    return {"--report": report, "--report (its JSON)": twin}


def network_of(model: Any, inputs: Any) -> dict[str, Any] | None:
    """Return the layers and groups of a model for the diagram; None without inputs to follow channels with."""
    from torchthin.pruning.inspection import overview

    return None if inputs is None else overview(model, inputs).to_dict()


def sensitivity_from(path: str | None) -> dict[str, Any] | None:
    """Return what ``torchthin sensitivity --save-to`` wrote.

    Raises:
        ConfigError: the file is something else.
    """
    if path is None or path in (AUTO, OUTPUTS):
        return None
    from torchthin.selection.sensitivity_table import read_table

    return read_table(path).to_dict()


def command_line() -> str:
    """Return the command that runs, to be pasted into a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def write_report(record: Mapping[str, Any], report: str | None, plots: str | None) -> list[str]:
    """Write what was asked for, each file complete or not at all, and return their paths."""
    from torchthin.report.page import render_page
    from torchthin.report.plots import plots as drawn

    files: list[str] = []
    if report is not None:
        page, twin = map(str, report_files(report).values())
        text = render_page(json.loads(json.dumps(record)))
        write_json(twin, record, "--report")
        write_file(page, lambda temporary: temporary.write_text(text, encoding="utf-8"), "--report")
        files += [page, twin]
    if plots is not None:
        for name, write in drawn(record).items():
            path = str(Path(plots) / name)
            write_file(path, write, "--plots")
            files.append(path)
    return files


COMMAND = Command(
    "Write the report of a pruned checkpoint, or of a report's JSON, as one HTML file that needs no network.",
    """\
example:
  %(prog)s pruned.pth --to pruned.html --model-factory models/net.py:small --input-shape 1,3,128,128
""",
    lambda parser: add_flags(parser, ReportOptions),
    report_options,
    run,
)
