"""The program ``torchthin``."""

from __future__ import annotations

from collections.abc import Sequence

from torchthin.cli.chip import DESCRIPTION as CHIP_DESCRIPTION
from torchthin.cli.chip import EXAMPLE as CHIP_EXAMPLE
from torchthin.cli.chip import add_chip_arguments, chip_options
from torchthin.cli.chip import run as run_chip
from torchthin.cli.inspect import DESCRIPTION as INSPECT_DESCRIPTION
from torchthin.cli.inspect import EXAMPLE as INSPECT_EXAMPLE
from torchthin.cli.inspect import add_inspect_arguments, inspect_options
from torchthin.cli.inspect import run as run_inspect
from torchthin.cli.options import EXAMPLE, add_prune_arguments, prune_options
from torchthin.cli.prune import DESCRIPTION as PRUNE_DESCRIPTION
from torchthin.cli.prune import run as run_prune
from torchthin.cli.shell import Parser, run_command
from torchthin.release import version

_EXAMPLE = """\
example:
  torchthin prune --model-factory models/net.py:small --checkpoint best.pth \\
      --target-sparsity 0.5 --save-to pruned.pth
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``torchthin`` on `argv` (default: the process's arguments) and return the exit code."""
    return run_command(_command, argv)


def _command(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="torchthin", description="Prune PyTorch models, and prove the result.", epilog=_EXAMPLE
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    prune = commands.add_parser(
        "prune", help=PRUNE_DESCRIPTION, description=PRUNE_DESCRIPTION, epilog=EXAMPLE
    )
    add_prune_arguments(prune)
    look = commands.add_parser(
        "inspect", help=INSPECT_DESCRIPTION, description=INSPECT_DESCRIPTION, epilog=INSPECT_EXAMPLE
    )
    add_inspect_arguments(look)
    chip = commands.add_parser(
        "chip", help=CHIP_DESCRIPTION, description=CHIP_DESCRIPTION, epilog=CHIP_EXAMPLE
    )
    add_chip_arguments(chip)
    namespace = parser.parse(arguments)
    command = namespace.command
    del namespace.command
    if command == "inspect":
        return run_inspect(inspect_options(namespace))
    if command == "chip":
        return run_chip(chip_options(namespace))
    return run_prune(prune_options(namespace))
