"""What every command shares: a parser with errors of one line, what it prints, and exceptions turned into exit codes.

Exit codes: 0 done; 1 an error inside; 2 bad usage or input; 3 target missed or proof failed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar

from torchthin.errors import ConfigError, TorchthinError, near_matches

EXIT_INTERNAL = 1
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
LONGEST = 5000
"""Letters of an error that are shown: a value out of a file may be as long as the file."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ConfigError, with the near matches of an unknown flag."""

    usual: frozenset[str] = frozenset()
    """What ``--help`` shows; ``--help-all`` shows the rest, too. Empty: everything."""

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

    def show_at_first(self, usual: Iterable[str]) -> None:
        """Let ``--help`` show these flags alone, and add ``--help-all``."""
        self.usual = frozenset((*usual, "--help", "--help-all"))
        self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show all flags, and exit")

    def format_help(self) -> str:
        """Return the help text, with the usual flags only where some were named."""
        rare = [
            each
            for each in self._actions
            if self.usual and not self.usual & {*each.option_strings, each.dest}
        ]
        told = [each.help for each in rare]
        for action in rare:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in zip(rare, told, strict=True):
                action.help = text

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


class _HelpAll(argparse.Action):
    """Shows the help of a parser with every flag, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        assert isinstance(parser, Parser)
        parser.usual = frozenset()
        parser.print_help()
        parser.exit()


class Console:
    """Prints what a run has to say; nothing when it is quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: object) -> None:
        """Print one thing on stdout; where what read it has ended, such as head, the run goes on without a word."""
        if self._quiet:
            return
        try:
            print(text, flush=True)
        except BrokenPipeError:
            _silence_stdout()

    @contextlib.contextmanager
    def progress(self, title: str, unit: str = "") -> Iterator[Callable[..., None] | None]:
        """Give a function of (done, total, unit) that moves a bar on stderr; None where stderr is no terminal.

        unit: of what is counted, where the function is not told.
        """
        if self._quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        count = TextColumn("{task.completed}/{task.total} {task.fields[unit]}")
        columns = (TextColumn(title), BarColumn(), count, TimeRemainingColumn())
        with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None, unit=unit)
            yield lambda done, total, what=unit, *_: bar.update(task, completed=done, total=total, unit=what)


class Facts(Protocol):
    """What a command found: prints as text, or as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""


Found = TypeVar("Found", bound=Facts)


@contextlib.contextmanager
def stdout_to_stderr(active: bool) -> Iterator[None]:
    """Within the block, send all output to stderr, that of the user's model too, so that stdout holds a command's JSON alone."""
    with contextlib.redirect_stdout(sys.stderr) if active else contextlib.nullcontext():
        yield


def print_json(facts: Any) -> None:
    """Print JSON types on stdout."""
    print(json.dumps(facts, indent=2))


def printing(
    work: Callable[[Any], Found], refuse: Callable[[Found], None] | None = None
) -> Callable[[Any], int]:
    """Return what runs a command: do the work, print what it found, as text or as JSON alone, and raise what `refuse` raises."""

    def run(options: Any) -> int:
        with stdout_to_stderr(options.json):
            facts = work(options)
            if not options.json:
                print(facts)
        if options.json:
            print_json(facts.to_dict())
        if refuse is not None:
            refuse(facts)
        return 0

    return run


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
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_PIPE_CLOSED
    except TorchthinError as error:
        return _fail(str(error), error.exit_code, arguments)
    except Exception as error:  # the last place before the user
        if interrupts.seen:  # an import caught it, as torch's of numpy does, and failed because of it
            return _interrupted(arguments)
        cure = "" if "--debug" in arguments else " Run again with --debug for the traceback."
        return _fail(f"{type(error).__name__}: {error}.{cure}", EXIT_INTERNAL, arguments)


def _silence_stdout() -> None:
    """Send stdout nowhere, since what read it has ended: nothing must be flushed into it, at exit neither."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Interrupts:
    """Records whether Ctrl-C was pressed within its block, where Python's own handler is in place."""

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
        f"interrupted. No file is left half written. {_how_to_continue(arguments)}", EXIT_INTERRUPTED, []
    )


def _how_to_continue(arguments: Sequence[str]) -> str:
    given = {argument.partition("=")[0] for argument in arguments}
    if "--train" in given:
        return "If a step was finished, the same command with --resume continues after it."
    if "--cache" in given:
        return "The same command continues with the results in --cache."
    if {"--recover-epochs", "--save-to"} <= given:
        return "If an epoch was finished, the same command continues after it."
    if given & {"--rows", "--storage"}:
        return "The same command continues with the rows that are finished."
    return "The same command starts over."


def _fail(message: str, code: int, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    line = "".join(
        char if char.isprintable() else " " for char in message
    )  # file names may hold escape codes
    line = " ".join(line.split())
    print("error:", line if len(line) <= LONGEST else f"{line[:LONGEST]} ...", file=sys.stderr)
    return code
