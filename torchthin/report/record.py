"""A run as one JSON document, with what the HTML page shows: what was achieved, on what, how, and with which versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torchthin.config.files import parse_json, read_text
from torchthin.errors import InputError

VERSION = 2
"""1 named the producers and consumers of groups otherwise, so its network is not drawn."""


def run_record(
    report: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    title: str,
    command: str | None = None,
    network: Mapping[str, Any] | None = None,
    sensitivity: Mapping[str, Any] | None = None,
    scores: Mapping[str, tuple[float, float]] | None = None,
    scored_on: str = "",
) -> dict[str, Any]:
    """Return the document, of JSON types.

    Args:
        report: `PruneReport.to_dict`.
        config: `PruneConfig.to_dict`.
        title: what was pruned.
        command: the command line.
        network: `torchthin.report.inspection.Overview.to_dict`.
        sensitivity: what ``torchthin sensitivity --save-to`` wrote.
        scores: name -> value before and after, higher is better.
        scored_on: the data of the scores.
    """
    values = {name: list(pair) for name, pair in (scores or {}).items()}
    return {
        "torchthin_record": VERSION,
        "title": title,
        "report": dict(report),
        "config": dict(config),
        "command": command,
        "versions": _versions(),
        "network": None if network is None else dict(network),
        "sensitivity": None if sensitivity is None else dict(sensitivity),
        "scores": {"on": scored_on, "values": values},
    }


def version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version("torchthin")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _versions() -> dict[str, str]:
    import numpy
    import torch

    return {
        "torchthin": version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def read_record(path: Path) -> dict[str, Any]:
    """Return the document in a file.

    Raises:
        InputError: the file cannot be read, or is no such document.
    """
    try:
        record = parse_json(read_text(path))
    except OSError as error:
        raise InputError(f"The report {path} cannot be read: {error.strerror}. Check the path.") from error
    except ValueError as error:
        raise InputError(
            f"The report {path} must be JSON: {error}. Give what prune --report wrote."
        ) from error
    if isinstance(record, dict) and record.get("torchthin_record") == 1:
        return {**record, "torchthin_record": VERSION, "network": None}
    if isinstance(record, dict) and record.get("torchthin_record") == VERSION:
        return record
    if isinstance(record, dict) and {"layers", "parameters", "schedule"} <= set(record):
        return run_record(record, {}, title=path.stem)  # what prune --json prints
    raise InputError(
        f"The report {path} must be what prune --report or prune --json wrote. It holds something else."
    )
