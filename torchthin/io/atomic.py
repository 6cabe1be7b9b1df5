"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from torchthin.config.files import regular
from torchthin.errors import CheckpointError
from torchthin.io.temporary import own_folder


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary file in a hidden folder beside `path`, flush that to disk and rename it to `path`.

    Missing folders are made; the file gets the permissions of the one it replaces, else the user's default.
    An error of `write` or of the system is raised on after the temporary file is removed; a file that was at `path` is then
    untouched.
    """
    target = regular(os.path.realpath(path))  # a link stays a link; the file it names is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    with own_folder(target) as folder:
        temporary = folder / target.name
        temporary.touch()
        mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files only their owner can read
        flush_to_disk(temporary)
        temporary.replace(target)
    flush_to_disk(target.parent)


def flush_to_disk(path: Path) -> None:
    """Return when a file's bytes, or a folder's entries, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_destination(path: str | Path) -> None:
    """Raise CheckpointError when no file can be written at `path`. No file and no folder is made."""
    path = Path(path)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # a name too long, or one that no file can have
        raise CheckpointError(
            f"The file to save must have a name that the system accepts. Got {str(path)[:60]!r}: "
            f"{getattr(error, 'strerror', None) or error}. Choose another name."
        ) from error
    if path.is_dir():
        raise CheckpointError(f"The file to save must not be a directory. {path} is one; add a file name.")
    try:
        regular(path)
    except OSError as error:
        raise CheckpointError(
            f"The file {path} cannot be saved: {error.strerror}. Choose another name."
        ) from error
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(
            f"The file to save must be in a folder that can be written to. {folder}: {error.strerror}. "
            "Choose another place."
        ) from error


def reason(error: BaseException) -> str:
    """Return why a file could not be written: in the system's words, which torch's own errors hide as their cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error) or type(error).__name__).splitlines()[0]
