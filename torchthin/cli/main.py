"""The program ``torchthin``: a table of commands, whose modules import torch only when they run: ``--help`` stays fast."""

from __future__ import annotations

from collections.abc import Sequence

from torchthin.cli import (
    bench,
    chip,
    compare,
    completion,
    export,
    inspect,
    prune,
    report,
    sensitivity,
    synthesis,
    verify,
    vocabulary,
)
from torchthin.cli.console import Parser, run_command
from torchthin.cli.flags_from_fields import Command
from torchthin.report.record import version

_EXAMPLE = """\
example:
  torchthin prune --model-factory models/net.py:small --checkpoint best.pth \\
      --target-sparsity 0.5 --save-to pruned.pth
"""
COMMANDS: dict[str, Command] = {
    "prune": prune.COMMAND,
    "inspect": inspect.COMMAND,
    "sensitivity": sensitivity.COMMAND,
    "compare": compare.COMMAND,
    "export": export.COMMAND,
    "report": report.COMMAND,
    "verify": verify.COMMAND,
    "vocabulary": vocabulary.COMMAND,
    "bench": bench.COMMAND,
    "chip": chip.COMMAND,
    "synthesis": synthesis.COMMAND,
    "completion": completion.COMMAND,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``torchthin`` on `argv` (default: the process's arguments) and return the exit code."""
    return run_command(_run, argv)


def program() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="torchthin", description="Prune PyTorch models, and prove the result.", epilog=_EXAMPLE
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for name, command in COMMANDS.items():
        about, example = command.description, command.example
        command.add_to(commands.add_parser(name, help=about, description=about, epilog=example))
    return parser


def _run(arguments: Sequence[str]) -> int:
    if not arguments:
        program().print_help()
        return 0
    namespace = program().parse(arguments)
    chosen = COMMANDS[namespace.command]
    del namespace.command
    return chosen.call(namespace)
