"""Where calibration inputs come from: tensors, loaders, files, functions, folders of pictures, or noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchthin.config import Pixels
from torchthin.config.files import regular
from torchthin.errors import InputError, one_line
from torchthin.graph.inputs import Inputs
from torchthin.io.checkpoints import read_saved
from torchthin.io.factory import named_function
from torchthin.io.noise import noise_batches

NOISE = "noise"
"""The source of users who have no inputs, see `torchthin.io.noise`."""
BATCH = 32
"""Inputs in a batch, where the source is one array or a folder of pictures."""
PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def items(source: Any, like: Inputs, max_samples: int, pixels: Pixels) -> Iterator[Any]:
    """Yield batches or single inputs of what `torchthin.io.calibration.calibration` takes, unchecked.

    Raises:
        InputError: the source cannot be read, or is none.
    """
    if isinstance(source, str) and source == NOISE:
        yield from noise_batches(like, max_samples, BATCH)
        return
    if isinstance(source, Path | str):
        path = Path(source)
        if not path.exists() and isinstance(source, str) and ":" in source:
            yield from _of_function(source, like, max_samples, pixels)
            return
        source = read_file(path, like, max_samples, pixels)
    if isinstance(source, np.ndarray):
        source = _tensor(source)
    if isinstance(source, Tensor):
        if not source.dim():
            yield source
        else:  # one after the other: an expanded tensor says a million million inputs in a few bytes
            yield from (source[start : start + BATCH] for start in range(0, len(source), BATCH))
    elif isinstance(source, Mapping | Inputs):
        yield source
    elif isinstance(source, Iterable):
        yield from _iterated(source)
    else:
        raise InputError(
            "The calibration data must be a tensor, an iterable of inputs, a file, a folder of pictures or "
            f"package.module:function. Got {type(source).__name__}."
        )


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    try:
        return torch.from_numpy(array)
    except TypeError as error:  # text, dates, objects
        raise InputError(
            f"The calibration data must be numbers that torch knows. Got an array of {array.dtype}."
        ) from error


def _iterated(source: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from source
    except InputError:
        raise
    except Exception as error:  # the user's loader may raise anything
        raise InputError(f"The calibration data raised {one_line(error)}. Correct the loader.") from error


def _of_function(reference: str, like: Inputs, max_samples: int, pixels: Pixels) -> Iterator[Any]:
    with named_function(reference, "data") as function:
        try:
            source = function()
        except Exception as error:  # the user's code may raise anything
            raise InputError(
                f"The data function {reference} raised {one_line(error)}. Correct it."
            ) from error
        if isinstance(source, str):
            raise InputError(f"The data function {reference} must return inputs. Got a str.")
        yield from items(source, like, max_samples, pixels)


def read_file(path: Path, like: Inputs, max_samples: int, pixels: Pixels) -> Any:
    """Return what a file holds, or a folder's pictures."""
    if path.is_dir():
        return _pictures(path, like, max_samples, pixels)
    if not path.exists():
        raise InputError(
            f"The calibration data {path} do not exist. Give a file, a folder, package.module:function or noise."
        )
    if path.suffix == ".npy":
        try:
            return np.load(regular(path), allow_pickle=False)
        except Exception as error:  # damaged files raise errors of many kinds
            raise InputError(
                f"The calibration data {path} cannot be read: {one_line(error)}. Save an array of numbers with numpy.save."
            ) from error
    if path.suffix in (".pt", ".pth"):
        return read_saved(path, "calibration file", "Save a tensor with torch.save.")
    raise InputError(
        f"The calibration data must be a .npy or .pt file, a folder of pictures or, of hf:FOLDER, a .txt file. Got {path}."
    )


def _pictures(folder: Path, like: Inputs, max_samples: int, pixels: Pixels) -> Iterator[Tensor]:
    """Yield batches of a folder's pictures, evenly spread over their sorted names, in the size of the model's input."""
    example, *others = like.tensors()
    if others or example.dim() != 4 or example.shape[1] not in (1, 3):
        raise InputError(
            "A folder of pictures can only be calibration data of a model that takes one input (n, 1 or 3, height, "
            f"width). This one takes {[tuple(tensor.shape) for tensor in like.tensors()]}."
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not files:
        raise InputError(f"The folder {folder} holds no picture ({', '.join(sorted(PICTURES))}).")
    spread = np.unique(np.linspace(0, len(files) - 1, min(max_samples, len(files))).astype(int))
    for start in range(0, len(spread), BATCH):
        yield torch.stack([_picture(files[i], example, pixels) for i in spread[start : start + BATCH]])


def _picture(path: Path, example: Tensor, pixels: Pixels) -> Tensor:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("Reading pictures needs pillow. Install torchthin[images].") from error
    channels, height, width = example.shape[1:]
    try:
        with Image.open(path) as image:
            resized = image.convert("L" if channels == 1 else "RGB").resize(
                (width, height), Image.Resampling.BILINEAR
            )
    except Exception as error:  # damaged pictures raise errors of many kinds
        raise InputError(f"The picture {path} cannot be read: {one_line(error)}. Take it out.") from error
    values = (
        torch.from_numpy(np.array(resized)).reshape(height, width, channels).permute(2, 0, 1).float() / 255
    )
    mean, std = (_per_channel(numbers, channels) for numbers in (pixels.mean, pixels.std))
    return (values - mean) / std


def _per_channel(numbers: tuple[float, ...], channels: int) -> Tensor:
    if len(numbers) not in (1, channels):
        raise InputError(f"Mean and std of the pictures must be 1 or {channels} numbers. Got {len(numbers)}.")
    return torch.tensor(numbers).reshape(-1, 1, 1)
