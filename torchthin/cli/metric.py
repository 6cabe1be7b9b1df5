"""What commands share that evaluate a model many times: the user's metric, and a bar that moves."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchthin.evaluation.evaluator import Metric
    from torchthin.evaluation.results import Progress


@contextlib.contextmanager
def named_metric(reference: str | None) -> Iterator[Metric | None]:
    """Give the function that was named; what it imports is found while it is used."""
    if reference is None:
        yield None
        return
    from torchthin.io.factory import named_function

    with named_function(reference, "metric") as function:
        yield function


@contextlib.contextmanager
def evaluations_bar(unit: str = "evaluations") -> Iterator[Progress | None]:
    """Give what moves a bar on a terminal's stderr; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def add_metric_argument(parser: argparse._ArgumentGroup) -> None:
    """Add ``--metric`` to a group of flags."""
    parser.add_argument(
        "--metric",
        metavar="MODULE:FUNCTION",
        help="function(model) that returns a number, higher is better (default: distance to the dense outputs on --data)",
    )


def add_weights_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add ``--weights`` and ``--keep`` to a group of flags."""
    parser.add_argument(
        "--weights", metavar="NAME", nargs="+", help="weights to prune (default: those of prune)"
    )
    parser.add_argument(
        "--keep", metavar="PATTERN", nargs="+", help="weights to leave whole, such as 'head*'"
    )


def add_workers_argument(parser: argparse._ArgumentGroup) -> None:
    """Add ``--workers`` to a group of flags."""
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="processes that evaluate, of one thread each if several (default: 1)",
    )
