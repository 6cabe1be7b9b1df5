"""The program ``torchthin``: a table of commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torchthin.cli import (
    bench,
    chip,
    compare,
    completion,
    export,
    inspect,
    options,
    prune,
    report,
    sensitivity,
    verify,
)
from torchthin.cli.console import Parser, run_command
from torchthin.report.record import version

_EXAMPLE = """\
example:
  torchthin prune --model-factory models/net.py:small --checkpoint best.pth \\
      --target-sparsity 0.5 --save-to pruned.pth
"""


@dataclass(frozen=True)
class Command:
    """One command: its texts, its flags, what they are read into, and what runs."""

    description: str
    example: str
    add_arguments: Callable[[Parser], None]
    read: Callable[[argparse.Namespace], Any]
    run: Callable[[Any], int]


COMMANDS: dict[str, Command] = {
    "prune": Command(
        prune.DESCRIPTION, options.EXAMPLE, options.add_prune_arguments, options.prune_options, prune.run
    ),
    "inspect": Command(
        inspect.DESCRIPTION,
        inspect.EXAMPLE,
        inspect.add_inspect_arguments,
        inspect.inspect_options,
        inspect.run,
    ),
    "sensitivity": Command(
        sensitivity.DESCRIPTION,
        sensitivity.EXAMPLE,
        sensitivity.add_sensitivity_arguments,
        sensitivity.sensitivity_options,
        sensitivity.run,
    ),
    "compare": Command(
        compare.DESCRIPTION,
        compare.EXAMPLE,
        compare.add_compare_arguments,
        compare.compare_options,
        compare.run,
    ),
    "export": Command(
        export.DESCRIPTION, export.EXAMPLE, export.add_export_arguments, export.export_options, export.run
    ),
    "report": Command(
        report.DESCRIPTION, report.EXAMPLE, report.add_report_arguments, report.report_options, report.run
    ),
    "verify": Command(
        verify.DESCRIPTION, verify.EXAMPLE, verify.add_verify_arguments, verify.verify_options, verify.run
    ),
    "bench": Command(
        bench.DESCRIPTION, bench.EXAMPLE, bench.add_bench_arguments, bench.bench_options, bench.run
    ),
    "chip": Command(chip.DESCRIPTION, chip.EXAMPLE, chip.add_chip_arguments, chip.chip_options, chip.run),
    "completion": Command(
        completion.DESCRIPTION,
        completion.EXAMPLE,
        completion.add_completion_arguments,
        completion.completion_options,
        completion.run,
    ),
}
"""Name -> command. Their modules import torch only when they run, so that ``--help`` stays fast."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``torchthin`` on `argv` (default: the process's arguments) and return the exit code."""
    return run_command(_command, argv)


def program() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="torchthin", description="Prune PyTorch models, and prove the result.", epilog=_EXAMPLE
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for name, command in COMMANDS.items():
        command.add_arguments(
            commands.add_parser(
                name, help=command.description, description=command.description, epilog=command.example
            )
        )
    return parser


def _command(arguments: Sequence[str]) -> int:
    namespace = program().parse(arguments)
    chosen = COMMANDS[namespace.command]
    del namespace.command
    return chosen.run(chosen.read(namespace))
