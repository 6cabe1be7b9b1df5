"""Safetensors written one tensor at a time: a folder of shards takes the memory of one tensor, whatever the model's size.

The library writes a whole file from tensors that are all there. The form of its files is fixed, so that a header can be written
before the first number is: its length, names with types, shapes and places as JSON, then the numbers one after another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from torchthin.errors import ConfigError
from torchthin.io.atomic import flush_to_disk

Numbers = np.ndarray[Any, np.dtype[Any]]

INDEX = "model.safetensors.index.json"
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Shard:
    """A file, and the tensors that go into it in this order."""

    file: str
    names: tuple[str, ...]


def size_in_bytes(size: int | str) -> int:
    """Return what a size such as "5GB" is in bytes.

    Raises:
        ConfigError: it is none, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?i?b)?\s*", str(size), re.IGNORECASE)
    unit = _UNITS.get((found[2] or "B").upper()) if found else None
    count = int(float(found[1]) * unit) if found and unit else 0
    if not count:
        raise ConfigError(
            f'The max_shard_size must be a size such as "5GB", "500MB" or a number of bytes. Got {size!r}.'
        )
    return count


def shards_of(forms: Mapping[str, Tensor], largest: int) -> list[Shard]:
    """Return the files that tensors go into, in their order: of at most `largest` bytes, or one tensor that is larger.

    Args:
        forms: tensors of the right types and shapes, without values.
        largest: bytes.
    """
    parts, size = list[list[str]](), 0
    for name, form in forms.items():
        if not parts or size + form.nbytes > largest:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += form.nbytes
    files = [f"model-{number + 1:05}-of-{len(parts):05}.safetensors" for number in range(len(parts))]
    if len(parts) == 1:
        files = ["model.safetensors"]
    # what is wider comes first, so that every tensor lies at a multiple of its numbers' size
    ordered = (sorted(part, key=lambda name: -forms[name].element_size()) for part in parts)
    return [Shard(file, tuple(names)) for file, names in zip(files, ordered, strict=True)]


def write_shards(
    folder: Path, forms: Mapping[str, Tensor], shards: Sequence[Shard], make: Callable[[str], Tensor]
) -> None:
    """Write files of weights, and their index where there are several; those that are in the folder already stay.

    A file has its name from when it is on the disk as a whole: who is interrupted goes on with the next one.
    """
    for shard in shards:
        target = folder / shard.file
        if not target.exists():
            part = folder / f"{shard.file}.part"
            _write_shard(part, forms, shard.names, make)
            flush_to_disk(part)
            part.replace(target)
    if len(shards) > 1:
        sizes = {"total_parameters": sum(form.numel() for form in forms.values())}
        sizes["total_size"] = sum(form.nbytes for form in forms.values())
        places = {name: shard.file for shard in shards for name in shard.names}
        index = json.dumps({"metadata": sizes, "weight_map": places}, indent=2, sort_keys=True)
        (folder / INDEX).write_text(f"{index}\n", encoding="utf-8")


def _write_shard(
    path: Path, forms: Mapping[str, Tensor], names: Sequence[str], make: Callable[[str], Tensor]
) -> None:
    with path.open("wb") as file:
        file.write(_header({name: forms[name] for name in names}))
        for name in names:
            _numbers_of(make(name), forms[name], name).tofile(file)


def _header(forms: Mapping[str, Tensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, form in forms.items():
        start, end = end, end + form.nbytes
        entries[name] = {
            "dtype": _type_name(form.dtype),
            "shape": list(form.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@cache
def _type_name(dtype: torch.dtype) -> str:
    """Return what the library calls a type in its files."""
    written = safetensors.torch.save({"x": torch.zeros(1, dtype=dtype)})
    length = int.from_bytes(written[:8], "little")
    return str(json.loads(written[8 : 8 + length])["x"]["dtype"])


def _numbers_of(tensor: Tensor, form: Tensor, name: str) -> Numbers:
    if (tensor.shape, tensor.dtype) != (form.shape, form.dtype):
        raise RuntimeError(
            f"{name} was to be {tuple(form.shape)} of {form.dtype}, and is {tuple(tensor.shape)} of {tensor.dtype}."
        )
    flat = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()
