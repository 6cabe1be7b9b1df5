"""What ``--report`` and ``--plots`` write, of a run or of a saved file: the HTML page, its JSON twin, the PNG plots."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchthin.errors import ConfigError


def check_report(report: str | None, plots: str | None) -> None:
    """Raise before anything runs when the files could not be written.

    Raises:
        ConfigError: the page does not end in .html.
        InputError: a place cannot be written to, or a package is missing.
    """
    from torchthin.io.atomic import check_destination
    from torchthin.report.plots import check_plots

    if report is not None:
        if Path(report).suffix != ".html":
            raise ConfigError(f"The file of --report must end in .html. Got {report}.")
        for path in (Path(report), json_twin(report)):
            check_destination(path)
    if plots is not None:
        check_plots()
        check_destination(Path(plots) / "layers.png")


def json_twin(report: str) -> Path:
    """Return where the JSON beside an HTML report lies."""
    return Path(report).with_suffix(".json")


def network_of(model: Any, inputs: Any) -> dict[str, Any] | None:
    """Return the layers and groups of a model for the diagram; None without inputs to follow channels with."""
    from torchthin.pruning.inspection import overview

    return None if inputs is None else overview(model, inputs).to_dict()


def sensitivity_from(path: str | None) -> dict[str, Any] | None:
    """Return what ``torchthin sensitivity --save-to`` wrote.

    Raises:
        ConfigError: the file is something else.
    """
    if path is None or path == "auto":
        return None
    from torchthin.selection.sensitivity_table import read_table

    return read_table(path).to_dict()


def command_line() -> str:
    """Return the command that runs, to be pasted into a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def write_report(record: Mapping[str, Any], report: str | None, plots: str | None) -> list[str]:
    """Write what was asked for, each file whole or not at all, and return their paths."""
    from torchthin.report.page import render_page
    from torchthin.report.plots import plots as drawn

    files: list[str] = []
    if report is not None:
        _write(json_twin(report), json.dumps(record, indent=2) + "\n")
        _write(Path(report), render_page(json.loads(json.dumps(record))))
        files += [report, str(json_twin(report))]
    if plots is not None:
        for name, write in drawn(record).items():
            _whole(Path(plots) / name, write)
            files.append(str(Path(plots) / name))
    return files


def _write(path: Path, text: str) -> None:
    _whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _whole(path: Path, write: Any) -> None:
    from torchthin.io.atomic import write_whole

    try:
        write_whole(path, write)
    except OSError as error:
        raise ConfigError(
            f"The file {path} cannot be written: {error.strerror}. Choose another place."
        ) from error
