"""Arrays of pictures and keypoints on disk; files appear complete or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pose_demo.people import People
from torchthin.errors import InputError, one_line
from torchthin.io.atomic import write_whole


def save_people(path: Path, people: People) -> None:
    """Write the cut-outs to an uncompressed .npz file: 64 KiB a person."""
    arrays = {"rgba": people.rgba.cpu().numpy(), "keypoints": people.keypoints.cpu().numpy()}
    write_arrays(path, arrays, compressed=False)


def load_people(path: Path) -> People:
    """Read what `save_people` wrote. Raises InputError when the file is missing or no such file."""
    cure = "Make it with: python -m pose_demo.generate people"
    data = read_arrays(path, "people file", ("rgba", "keypoints"), cure)
    return People(torch.from_numpy(data["rgba"]), torch.from_numpy(data["keypoints"]))


def write_arrays(path: Path, arrays: Mapping[str, Any], *, compressed: bool = True) -> None:
    """Write a .npz file. On failure the file that was at `path` is untouched and the error goes on."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            (np.savez_compressed if compressed else np.savez)(file, **arrays)

    write_whole(path, write)


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


def row_differences(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 pixels as differences along the last axis, which compress better; they wrap around."""
    return np.diff(pixels, axis=-1, prepend=np.zeros_like(pixels[..., :1]))


def from_row_differences(differences: np.ndarray) -> np.ndarray:
    """Return the pixels again."""
    return np.cumsum(differences, axis=-1, dtype=np.uint8)
