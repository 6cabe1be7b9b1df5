"""Write pruned checkpoints and states of runs: plain types and tensors, complete or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from torchthin.config.files import refuse_too_many
from torchthin.errors import CheckpointError
from torchthin.io.atomic import reason, write_whole
from torchthin.io.checkpoints.masks import packed
from torchthin.io.checkpoints.read import MASK_PREFIX


def write_checkpoint(path: str | Path, contents: Mapping[str, Any]) -> None:
    """Write `contents` to `path`: safetensors when the name ends in ``.safetensors``, else a torch file.

    The torch file loads with ``weights_only=True``. Masks are bits (`torchthin.io.checkpoints.masks`). In a safetensors file
    they are the tensors named ``torchthin.masks.<weight>``, and every other entry is JSON text in the metadata (tensors in
    ``extras`` as lists). Missing folders are made. The file appears complete (temporary file beside it, fsync, rename); on any
    failure a file that was at `path` before is untouched.

    Args:
        path: file to write.
        contents: ``state_dict``, ``masks`` (weight name -> bool tensor, True = kept) and other entries of plain types.

    Raises:
        CheckpointError: the contents are not plain, or the file cannot be written.
    """
    path = Path(path)
    bits, shapes = packed(contents["masks"])
    contents = {**contents, "masks": bits, "mask_shapes": shapes}
    entries = {key: _plain(value, key) for key, value in contents.items()}
    if path.suffix == ".safetensors":
        _refuse_endless(entries.get("extras"))
        tensors, metadata = _flat(entries.pop("state_dict"), entries.pop("masks"), entries)
        _write(path, "checkpoint", lambda file: safetensors.torch.save_file(tensors, file, metadata))
    else:
        write_state(path, "checkpoint", entries)


def write_torch(
    path: str | Path, contents: Mapping[str, Any], foreign: Mapping[str, Any] | None = None
) -> None:
    """Write a torch file of plain types and tensors under any keys, complete or not at all.

    Args:
        path: file to write.
        contents: entries in the types that ``weights_only`` reading admits.
        foreign: entries that are pickled as they are; a file with them needs their classes to be read.

    Raises:
        CheckpointError: the contents are not plain, or the file cannot be written.
    """
    entries = {key: _plain(value, key) for key, value in contents.items()}
    write_state(Path(path), "checkpoint", {**entries, **(foreign or {})})


def write_state(path: Path, what: str, content: Mapping[str, Any]) -> None:
    """Write a dict with torch.save, complete or not at all; `what` names the file in an error.

    Raises:
        CheckpointError: the file cannot be written; a file that was there is untouched.
    """

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # through Python's file, so that the reason of a failure is kept
            torch.save(dict(content), file)

    _write(path, what, save)


def _write(path: Path, what: str, write: Callable[[Path], object]) -> None:
    try:
        write_whole(path, write)
    except Exception as error:  # each serialiser has exceptions of its own
        raise CheckpointError(
            f"The {what} {path} could not be written: {reason(error)}. Nothing was changed; "
            "free some space or choose another place."
        ) from error


def _stored(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor detached, on the CPU, without the rest of a larger storage; tied weights stay tied."""
    value = value.detach().cpu()
    if value.layout == torch.strided and not value.is_quantized:
        larger = value.untyped_storage().nbytes() > value.numel() * value.element_size()
        return value.clone() if larger else value
    return value


def _plain(value: object, where: str, known: dict[int, Any] | None = None) -> Any:
    """Return `value` in the types that ``weights_only`` reading admits in every torch version.

    known: what became of each container, by its ``id``: what is shared stays shared, so no more is written than was read.
    """
    known = {} if known is None else known
    if value is None or isinstance(value, bool | bytes):
        return value
    for kind in (int, float, str):  # numpy's float64 is a float too, but pickled as a class of numpy
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, torch.Tensor):
        return _stored(value)
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if id(value) not in known:
            known[id(value)] = None
            if isinstance(value, Mapping):
                pairs = value.items()
                made: Any = {_plain(key, where, known): _plain(part, where, known) for key, part in pairs}
            else:
                made = [_plain(part, where, known) for part in value]
            known[id(value)] = made
        if known[id(value)] is None:
            raise CheckpointError(
                f"The {where} of a checkpoint must not hold a list or mapping that holds itself."
            )
        return known[id(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(getattr(value, "item", None)):  # a numpy scalar
        return _plain(value.item(), where)  # type: ignore[attr-defined]
    raise CheckpointError(
        f"The {where} of a checkpoint must be plain types and tensors. Got {type(value).__name__}."
    )


def _flat(
    state: Mapping[str, Any], masks: Mapping[str, torch.Tensor], others: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file, in which no two tensors may share memory."""
    seen: set[int] = set()
    tensors: dict[str, torch.Tensor] = {}
    for name, value in [*state.items(), *((MASK_PREFIX + n, mask) for n, mask in masks.items())]:
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"A .safetensors file must hold tensors only. {name} is none; save to a .pth file instead."
            )
        pointer = value.untyped_storage().data_ptr()
        tensors[name] = value.clone().contiguous() if pointer in seen else value.contiguous()
        seen.add(pointer)
    return tensors, {key: json.dumps(value, default=_as_lists) for key, value in others.items()}


def _refuse_endless(extras: object) -> None:
    """JSON writes a list wherever it is referred to, which can be much more than was read."""
    try:
        refuse_too_many(extras)
    except ValueError as error:
        raise CheckpointError(
            f"The extras cannot be the text of a .safetensors file: {error}. Save to a .pth file instead."
        ) from error


def _as_lists(value: object) -> object:
    """Write tensors (and bytes) of `extras` as JSON, which knows only lists and text."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} in a checkpoint's extras")
