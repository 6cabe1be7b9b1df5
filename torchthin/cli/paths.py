"""No output of a command may be one of its inputs, or another output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torchthin.errors import ConfigError


def refuse_same_files(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> None:
    """Raise ConfigError when a file would be written over one that is read, or over another that is written.

    Args:
        outputs: flag -> file to write; None: not asked for.
        inputs: what it is, as "the checkpoint itself" -> file that is read; None, and what is no file: not looked at.
    """
    places = {flag: Path(path) for flag, path in outputs.items() if path is not None}
    read = {what: Path(path) for what, path in inputs.items() if path is not None}
    for flag, path in places.items():
        for what, source in read.items():
            if _same(path, source):
                raise ConfigError(
                    f"The file of {flag} must not be {what}. Got {path} for both; choose another name."
                )
        for other, there in places.items():
            if other != flag and there.resolve() == path.resolve():
                raise ConfigError(f"The files of {flag} and {other} must differ. Got {path} for both.")


def files_read(checkpoint: str | None, model_factory: str, data: str | None) -> dict[str, str | None]:
    """Return what a command reads of a model and its data, as `refuse_same_files` takes it."""
    return {
        "the checkpoint itself": checkpoint,
        "the model's own": model_factory.rpartition(":")[0] or None,
        "the --data": data,
    }


def _same(path: Path, source: Path) -> bool:
    try:
        return path.samefile(source)
    except (OSError, ValueError):  # one of them is not there
        return False
