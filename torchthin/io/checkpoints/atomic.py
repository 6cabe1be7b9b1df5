"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary file beside `path`, flush that to disk and rename it to `path`.

    Missing folders are made; the file gets the permissions of the one it replaces, else the user's default.
    Whatever `write` or the system raises goes on, after the temporary file is removed; what stood at `path`
    is then untouched.
    """
    target = Path(os.path.realpath(path))  # a link stays a link; the file it names is replaced
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"  # no longer than any name that is allowed
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files only their owner can read
        _flush_to_disk(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_to_disk(target.parent)


def _flush_to_disk(path: Path) -> None:
    """Make sure a file's bytes, or a folder's entries, are on the disk before going on."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
