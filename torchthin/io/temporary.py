"""Hidden folders in which files are written before they take their place, and the removal of those that killed processes left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def own_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`, and remove it at the end; what killed writers of the same target left goes first.

    The folder is locked while it is in use. The system takes the lock from a process that ends in any way, so a folder of this
    name that can be locked is one that nobody writes to.
    """
    _remove_abandoned(target)
    folder, lock = _locked_folder(target.parent, f"{_prefix(target)}-")
    try:
        yield folder
    finally:
        _remove(folder, lock)


@contextlib.contextmanager
def resumed_folder(target: Path, contents: str) -> Iterator[Path]:
    """Give a folder beside `target` as `own_folder` does, with what a writer of the same contents left that was interrupted.

    It stays where the process is killed or interrupted, until the next writer of the same target; an error removes it.

    Args:
        target: what is written.
        contents: a text that is another one wherever other bytes would be written.
    """
    folder = target.parent / f"{_prefix(target)}.{_digest(contents)}"
    _remove_abandoned(target, but=folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = _lock(folder, wait=False)
    if lock is None or os.fstat(lock).st_uid != os.getuid():  # no locks here, or somebody else's
        if lock is not None:
            os.close(lock)
        with own_folder(target) as other:
            yield other
        return
    try:
        yield folder
    except Exception:
        _remove(folder, lock)
        raise
    except BaseException:  # of the user, who may go on later
        os.close(lock)
        raise
    _remove(folder, lock)


def _prefix(target: Path) -> str:
    return f".torchthin-{_digest(target.name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = _lock(folder, wait=True)
        if folder.exists():  # another writer may have found it before it was locked
            return folder, lock
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Return the handle of a folder that was locked; None where that is not possible, or another process has it."""
    if sys.platform == "win32":
        return None  # nothing says there whether a writer lives, so nothing is removed
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _remove_abandoned(target: Path, but: Path | None = None) -> None:
    for folder in target.parent.glob(f"{_prefix(target)}[-.]*"):
        if folder == but:
            continue
        lock = _lock(folder, wait=False)
        if lock is None:
            continue
        if os.fstat(lock).st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
