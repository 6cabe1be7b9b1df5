"""Calibration inputs: what a user has of the model's data, with or without labels, as batches of inputs without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchthin.errors import InputError, one_line
from torchthin.graph.inputs import Inputs
from torchthin.io.checkpoints import read_saved
from torchthin.io.factory import named_function
from torchthin.io.noise import noise_like

NOISE = "noise"
"""The source of those who have no inputs."""
LIMIT = 256
"""Inputs that are taken, where the caller says nothing else."""
BATCH = 32
"""Inputs in a batch, where the source is one array or a folder of pictures."""
PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Calibration:
    """Inputs of the model, checked, in batches."""

    batches: tuple[Inputs, ...]
    samples: int
    """Inputs in all batches together."""
    notes: tuple[str, ...] = ()
    """What of the source was left out."""

    def joined(self) -> Inputs:
        """Return all inputs in one batch; tensors whose first axis does not count inputs are taken from the first one."""
        lists = [list(batch.tensors()) for batch in self.batches]
        sizes = [tensors[0].shape[0] if tensors[0].dim() else 1 for tensors in lists]
        columns = iter(list(zip(*lists, strict=True)))

        def join(_: Tensor) -> Tensor:
            column = next(columns)
            counted = all(t.dim() and t.shape[0] == size for t, size in zip(column, sizes, strict=True))
            return torch.cat(column) if counted else column[0]

        return self.batches[0].map(join)


def picked(inputs: Inputs, index: Tensor) -> Inputs:
    """Return the inputs of these numbers out of one batch."""
    size = next(inputs.tensors()).shape[0]
    return inputs.map(lambda t: t[index.to(t.device)] if t.dim() and t.shape[0] == size else t)


@dataclass(frozen=True)
class Pixels:
    """How pictures become numbers: values in 0..1, less `mean`, divided by `std`, each one for all channels or one a channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse numbers that make no pictures."""
        if not all(isfinite(number) for number in (*self.mean, *self.std)) or min(self.std, default=1) <= 0:
            raise InputError(
                "The mean and std of pictures must be finite numbers, and std above 0. "
                f"Got mean {self.mean} and std {self.std}."
            )


def calibration(
    source: Any, *, like: Inputs, limit: int = LIMIT, pixels: Pixels | None = None
) -> Calibration:
    """Return the first `limit` inputs of `source`.

    Args:
        source: a tensor (n, ...); an iterable of batches or of single inputs, each a tensor, a tuple of positional or a dict
            of keyword arguments (a DataLoader, a list); ``"package.module:function"``, whose function returns such a
            thing; a ``.npy`` or ``.pt`` file that holds one; a folder of pictures (extra ``images``), of which `limit`,
            evenly spread over the sorted names, are brought to the size of the model's input; or ``"noise"``, random
            inputs (`torchthin.io.noise`).
        like: example inputs of the model: what they have in number, shape (but for the first axis) and kind of dtype, the
            source must have. Parts that the model does not take, such as labels, are left out with a note.
        limit: most inputs to take.
        pixels: how pictures become numbers.

    Raises:
        InputError: the source cannot be read, yields nothing, does not fit the model or holds numbers that are not finite.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(
            f"The limit of the calibration data must be a whole number of at least 1. Got {limit!r}."
        )
    if isinstance(source, Calibration):
        return source
    form = _Form.of(like)
    batches: list[Inputs] = []
    samples, notes = 0, dict[str, None]()
    if isinstance(source, str) and source == NOISE:
        notes["The calibration inputs are noise, of mean 0 and deviation 1: no data were given."] = None
    for number, item in enumerate(_items(source, like, limit, pixels or Pixels())):
        inputs, note = form.fitted(item, number)
        inputs = _first(inputs, limit - samples, form)
        batches.append(inputs)
        samples += form.samples(inputs)
        if note:
            notes[note] = None
        if samples >= limit:
            break
    if not samples:
        raise InputError(f"The calibration data ({_told(source)}) hold no input. Give at least one.")
    return Calibration(tuple(batches), samples, tuple(notes))


@dataclass(frozen=True)
class _Form:
    """What the model takes."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    size: int
    """Inputs in the example: the first axis of its first tensor."""

    @classmethod
    def of(cls, like: Inputs) -> _Form:
        first = next(tensor for tensor in like.tensors())
        return cls(like.args, dict(like.kwargs or {}), first.shape[0] if first.dim() else 1)

    def samples(self, inputs: Inputs) -> int:
        """Return how many inputs a batch holds."""
        first = next(tensor for tensor in inputs.tensors())
        return int(first.shape[0]) if first.dim() else 1

    def batched(self, example: Tensor) -> bool:
        """Whether the first axis of an argument counts the inputs."""
        return example.dim() > 0 and example.shape[0] == self.size

    def fitted(self, item: Any, number: int) -> tuple[Inputs, str]:
        """Return one item of the source as arguments of the model, and what was left out of it."""
        args, kwargs, note = self._split(item, number)
        return (
            Inputs(
                tuple(self._checked(v, e, number) for v, e in zip(args, self.args, strict=True)),
                {name: self._checked(kwargs[name], self.kwargs[name], number) for name in kwargs} or None,
            ),
            note,
        )

    def _split(self, item: Any, number: int) -> tuple[tuple[Any, ...], dict[str, Any], str]:
        if isinstance(item, Inputs):
            item = dict(item.kwargs) if item.kwargs and not item.args else item.args
        if isinstance(item, Mapping):
            missing = [name for name in self.kwargs if name not in item]
            if self.args or missing:
                wanted = ", ".join(missing) or f"{len(self.args)} positional arguments"
                raise _wrong(
                    number, f"a dict with {', '.join(map(str, item))}", f"what the model takes: {wanted}"
                )
            left = [str(name) for name in item if name not in self.kwargs]
            kept = {name: item[name] for name in self.kwargs}
            return (), kept, f"Left out of the calibration data: {', '.join(left)}." if left else ""
        parts = tuple(item) if isinstance(item, list | tuple) else (item,)
        if self.kwargs or len(parts) < len(self.args):
            wanted = f"a dict with {', '.join(self.kwargs)}" if self.kwargs else f"{len(self.args)} tensors"
            raise _wrong(number, f"{len(parts)} tensors", wanted)
        extra = len(parts) - len(self.args)
        note = "Left out of the calibration data: what stands behind the model's inputs, such as labels."
        return parts[: len(self.args)], {}, note if extra else ""

    def _checked(self, value: Any, example: Any, number: int) -> Any:
        """Return an argument as a tensor that fits the example's; what is no tensor there is taken from there."""
        if not isinstance(example, Tensor):
            return example
        if isinstance(value, np.ndarray | np.generic | int | float):
            value = torch.as_tensor(value)
        if not isinstance(value, Tensor):
            raise _wrong(number, f"a {type(value).__name__}", "a tensor")
        if value.dim() == example.dim() - 1 and self.batched(example):
            value = value[None]
        free = 1 if self.batched(example) else 0
        if value.dim() != example.dim() or value.shape[free:] != example.shape[free:]:
            shape = ", ".join(("n", *map(str, example.shape[1:])) if free else map(str, example.shape))
            raise _wrong(number, f"shape {tuple(value.shape)}", f"shape ({shape}), as the example inputs")
        if value.is_floating_point() != example.is_floating_point():
            raise _wrong(number, f"dtype {value.dtype}", f"a dtype such as {example.dtype}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(
                f"The calibration data hold NaN or infinite numbers (item {number}). Take those inputs out."
            )
        return value.detach().to(example.dtype)


def _wrong(number: int, got: str, wanted: str) -> InputError:
    return InputError(f"Item {number} of the calibration data must be {wanted}. Got {got}.")


def _first(inputs: Inputs, count: int, form: _Form) -> Inputs:
    """Return at most `count` inputs of a batch."""
    size = form.samples(inputs)
    if size <= count:
        return inputs
    return inputs.map(lambda tensor: tensor[:count] if tensor.dim() and tensor.shape[0] == size else tensor)


def _told(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else type(source).__name__


def _items(source: Any, like: Inputs, limit: int, pixels: Pixels) -> Iterator[Any]:
    """Yield batches or single inputs."""
    if isinstance(source, str) and source == NOISE:
        yield from _noise(like, limit)
        return
    if isinstance(source, Path | str):
        path = Path(source)
        if not path.exists() and isinstance(source, str) and ":" in source:
            yield from _of_function(source, like, limit, pixels)
            return
        source = _read(path, like, limit, pixels)
    if isinstance(source, np.ndarray):
        source = _tensor(source)
    if isinstance(source, Tensor):
        yield from source.split(BATCH) if source.dim() else [source]
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


def _noise(like: Inputs, limit: int) -> Iterator[Inputs]:
    generator = torch.Generator().manual_seed(0)
    size = _Form.of(like).size
    for start in range(0, limit, BATCH):
        count = min(BATCH, limit - start)
        yield like.map(
            lambda t, n=count: noise_like(t, n, generator) if t.dim() and t.shape[0] == size else t  # type: ignore[misc]
        )


def _iterated(source: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from source
    except InputError:
        raise
    except Exception as error:  # whatever the user's loader raises
        raise InputError(f"The calibration data raised {one_line(error)}. Mend the loader.") from error


def _of_function(reference: str, like: Inputs, limit: int, pixels: Pixels) -> Iterator[Any]:
    with named_function(reference, "data") as function:
        try:
            source = function()
        except Exception as error:  # whatever the user's code raises
            raise InputError(f"The data function {reference} raised {one_line(error)}. Mend it.") from error
        if isinstance(source, str):
            raise InputError(
                f"The data function {reference} must return inputs. Got a {type(source).__name__}."
            )
        yield from _items(source, like, limit, pixels)


def _read(path: Path, like: Inputs, limit: int, pixels: Pixels) -> Any:
    """Return what a file holds, or a folder's pictures."""
    if path.is_dir():
        return _pictures(path, like, limit, pixels)
    if not path.exists():
        raise InputError(
            f"The calibration data {path} do not exist. Give a file, a folder, package.module:function or noise."
        )
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
    except Exception as error:  # what damaged files raise is of many kinds
        raise InputError(
            f"The calibration data {path} cannot be read: {one_line(error)}. Save an array of numbers with numpy.save."
        ) from error
    if path.suffix in (".pt", ".pth"):
        return read_saved(path, "calibration file", "Save a tensor with torch.save.")
    raise InputError(f"The calibration data must be a .npy or .pt file, or a folder of pictures. Got {path}.")


def _pictures(folder: Path, like: Inputs, limit: int, pixels: Pixels) -> Iterator[Tensor]:
    """Yield batches of a folder's pictures, evenly spread over their sorted names, in the size of the model's input."""
    example = next(tensor for tensor in like.tensors())
    if len(list(like.tensors())) != 1 or example.dim() != 4 or example.shape[1] not in (1, 3):
        raise InputError(
            "A folder of pictures can only be calibration data of a model that takes one input (n, 1 or 3, height, "
            f"width). This one takes {[tuple(tensor.shape) for tensor in like.tensors()]}."
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise InputError(f"The folder {folder} holds no picture ({', '.join(sorted(PICTURES))}).")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(limit, len(files))).astype(int))]
    for start in range(0, len(chosen), BATCH):
        yield torch.stack([_picture(path, example, pixels) for path in chosen[start : start + BATCH]])


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
    except Exception as error:  # what damaged pictures raise is of many kinds
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
