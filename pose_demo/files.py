"""Arrays of pictures and keypoints on disk; files appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from pose_demo.people import People
from torchthin.errors import InputError, one_line


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` on a temporary file beside `path`, flush it to disk and rename it to `path`.

    Missing folders are made. On failure what stood at `path` is untouched and the error goes on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_people(path: Path, people: People) -> None:
    """Write the cut-outs to an uncompressed .npz file: 64 KiB a person."""
    arrays: dict[str, Any] = {"rgba": people.rgba.cpu().numpy(), "keypoints": people.keypoints.cpu().numpy()}
    write_whole(path, lambda file: np.savez(file, **arrays))


def load_people(path: Path) -> People:
    """Read what `save_people` wrote. Raises InputError when the file is missing or no such file."""
    cure = "Make it with: python -m pose_demo.generate people"
    data = read_arrays(path, "people file", ("rgba", "keypoints"), cure)
    return People(torch.from_numpy(data["rgba"]), torch.from_numpy(data["keypoints"]))


def read_arrays(path: Path, what: str, names: tuple[str, ...], cure: str) -> dict[str, Any]:
    """Return the arrays of a .npz file by name.

    Args:
        path: of the file.
        what: names it in an error.
        names: arrays it must hold.
        cure: the end of an error: what to do.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"The {what} {path} does not exist. {cure}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            found = {name: data[name] for name in data.files}
    except Exception as error:  # damage can raise anything, anywhere in numpy or zipfile
        raise InputError(f"The {what} {path} cannot be read: {one_line(error)[:120]}. {cure}") from error
    if not set(names) <= set(found):
        raise InputError(
            f"The {what} {path} must hold {', '.join(names)}. It holds {', '.join(found)}. {cure}"
        )
    return found
