"""Arrays of pictures and keypoints on disk; files appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from torchthin.errors import InputError
from torchthin.pose.people import People


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
    if not path.is_file():
        raise InputError(
            f"The people file {path} does not exist. Make it with: python -m torchthin.pose.generate people"
        )
    with np.load(path, allow_pickle=False) as data:
        if not {"rgba", "keypoints"} <= set(data.files):
            raise InputError(f"The people file {path} must hold rgba and keypoints. It holds {data.files}.")
        return People(torch.from_numpy(data["rgba"]), torch.from_numpy(data["keypoints"]))
