"""What every command shares: a parser with errors of one line, and exceptions turned into exit codes.

Exit codes: 0 done; 1 an error inside; 2 bad usage or input; 3 target missed or proof failed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from torchthin.errors import ConfigError, TorchthinError, near_matches

EXIT_INTERNAL = 1
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ConfigError, with the near matches of an unknown flag."""

    def __init__(
        self, *, prog: str | None = None, description: str | None = None, epilog: str | None = None
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong, and say where help is."""
        unknown = re.search(r"invalid choice: '(.*?)'", message)
        hint = near_matches(unknown[1], self.commands()) if unknown else ""
        raise ConfigError(f"{message[:1].upper()}{message[1:]}.{hint} See {self.prog} --help.")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return what was given; raise ConfigError, for an unknown flag with those it resembles."""
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            flag = unknown[0].partition("=")[0]
            chosen = self.commands().get(getattr(parsed, "command", ""), self)
            hint = near_matches(flag, chosen.flags()) if flag.startswith("-") else ""
            raise ConfigError(f"Unknown argument {unknown[0]!r}.{hint} See {chosen.prog} --help.")
        return parsed

    def flags(self) -> list[str]:
        """Return all flags of this parser and of its commands."""
        found = [*self._option_string_actions]
        for parser in self.commands().values():
            found += parser.flags()
        return found

    def commands(self) -> dict[str, Parser]:
        """Return the parsers of its commands, by name."""
        return {
            name: parser
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for name, parser in action.choices.items()
        }


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Run `command` on the arguments; turn every exception into one line on stderr and an exit code.

    With ``--debug`` among the arguments the traceback is shown as well.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    interrupts = _Interrupts()
    try:
        with interrupts:
            code = command(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _interrupted(arguments)
    except (
        BrokenPipeError
    ):  # the reader, such as head, has gone; keep the interpreter from flushing into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except TorchthinError as error:
        return _fail(str(error), error.exit_code, arguments)
    except Exception as error:  # the last place before the user
        if (
            interrupts.seen
        ):  # swallowed, as importing torch does where it looks for numpy, and this came of it
            return _interrupted(arguments)
        cure = "" if "--debug" in arguments else " Run again with --debug for the traceback."
        return _fail(f"{type(error).__name__}: {error}.{cure}", EXIT_INTERNAL, arguments)


class _Interrupts:
    """Remembers within its block whether Ctrl-C was pressed, where Python's own handler would answer it."""

    def __init__(self) -> None:
        self.seen = False
        self._before: Any = None

    def __enter__(self) -> None:
        main_thread = threading.current_thread() is threading.main_thread()
        if main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> NoReturn:
        self.seen = True
        raise KeyboardInterrupt


def _interrupted(arguments: Sequence[str]) -> int:
    return _fail(
        f"interrupted. No file is left half written. {_how_to_go_on(arguments)}", EXIT_INTERRUPTED, []
    )


def _how_to_go_on(arguments: Sequence[str]) -> str:
    given = {argument.partition("=")[0] for argument in arguments}
    if "--train" in given:
        return (
            "Give the same command with --resume to go on after the last step that ended, if there was one."
        )
    if "--cache" in given:
        return "The same command goes on from --cache."
    if {"--recover-epochs", "--save-to"} <= given:
        return "The same command goes on after the last epoch that ended, if there was one."
    if given & {"--rows", "--storage"}:
        return "The same command goes on from the rows that are there."
    return "Run the same command to begin anew."


def _fail(message: str, code: int, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    line = "".join(
        char if char.isprintable() else " " for char in message
    )  # file names may hold escape codes
    print("error:", " ".join(line.split()), file=sys.stderr)
    return code
