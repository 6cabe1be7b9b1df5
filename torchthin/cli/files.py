"""The files that a command writes: none may be one that it reads, and each appears complete or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchthin.errors import ConfigError


def check_files(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> None:
    """Raise when a file cannot be written, is one that is read, or is another that is written. No file is made.

    Args:
        outputs: flag -> file to write; None: not asked for.
        inputs: what it is, as "the checkpoint itself" -> file that is read; None, and what is no file: not looked at.

    Raises:
        InputError: one of them.
    """
    from torchthin.io.atomic import check_destination

    paths = {flag: Path(path) for flag, path in outputs.items() if path is not None}
    sources = {what: Path(path) for what, path in inputs.items() if path is not None}
    for flag, path in paths.items():
        check_destination(path)
        for what, source in sources.items():
            if _is_same(path, source):
                raise ConfigError(
                    f"The file of {flag} must not be {what}. Got {path} for both; choose another name."
                )
        for other, other_path in paths.items():
            if other != flag and other_path.resolve() == path.resolve():
                raise ConfigError(f"The files of {flag} and {other} must differ. Got {path} for both.")


def _is_same(path: Path, source: Path) -> bool:
    try:
        return path.samefile(source)
    except (OSError, ValueError):  # one of them does not exist
        return False


def write_file(path: str | Path, write: Callable[[Path], object], flag: str) -> None:
    """Call `write` with a temporary file that then becomes `path`.

    Raises:
        ConfigError: the file cannot be written; one that existed is untouched.
    """
    from torchthin.io.atomic import write_whole

    try:
        write_whole(Path(path), write)
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be written: {error.strerror}. Check {flag}.") from error


def write_json(path: str | Path, facts: Any, flag: str) -> None:
    """Write JSON types as a file, as `write_file` does."""
    text = json.dumps(facts, indent=2) + "\n"
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), flag)
