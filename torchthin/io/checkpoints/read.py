"""Files that torch or safetensors wrote -> :class:`Checkpoint`, or the state of a run. Nothing in them is run."""

from __future__ import annotations

import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from torchthin.config.files import regular
from torchthin.errors import CheckpointError
from torchthin.io.checkpoints.archive import load_checked, read_archive
from torchthin.io.checkpoints.content import Checkpoint, checkpoint_from
from torchthin.io.checkpoints.safe_pickle import refuse_foreign
from torchthin.io.checkpoints.shards import refuse_repeats, safetensors_files

MASK_PREFIX = "torchthin.masks."
"""In safetensors files, which know only one flat list of tensors, the names of masks begin with it."""


def read_checkpoint(path: str | Path | Sequence[str | Path]) -> Checkpoint:
    """Read a checkpoint without running any code it holds.

    Read are torch files (zip and the older format) and safetensors, holding a bare state dict or one under
    ``state_dict``, ``model``, ``model_state`` or ``model_state_dict``. Foreign classes elsewhere in the file,
    such as an optimizer's, are skipped and named in ``skipped``. A folder or an index of Hugging Face, or a list of files,
    is read as one checkpoint. Tensors of safetensors files are mapped: they take memory of the file alone, as they are read.

    Raises:
        CheckpointError: the file is missing, damaged (by the checksums of a torch archive as well) or of another
        kind, or its state dict needs a foreign class.
    """
    if not isinstance(path, str | Path):
        return _joined([Path(part) for part in path], "the files given")
    path = Path(path)
    files = safetensors_files(path)
    if files:
        return _joined(files, path)
    try:
        _refuse_other_files(path)
        if _is_safetensors(path):
            return _from_safetensors(path)
        return checkpoint_from(path, _from_torch(path))
    except CheckpointError:
        raise
    except Exception as error:  # damage can raise anything, anywhere in torch, zipfile or safetensors
        raise CheckpointError(
            f"The checkpoint {path} is damaged or no checkpoint ({_damage(error)}). Save or download it again."
        ) from error


def _joined(files: Sequence[Path], path: str | Path) -> Checkpoint:
    """Return what several files hold together; a single one's masks and recipe as well."""
    parts = [read_checkpoint(file) for file in files]
    if not parts:
        raise CheckpointError("A checkpoint must be at least one file. Got an empty list.")
    states = [part.state_dict for part in parts]
    refuse_repeats(states, files)
    state = {name: value for held in states for name, value in held.items()}
    return replace(parts[0], path=files[0] if len(files) == 1 else Path(path), state_dict=state)


def read_saved(path: Path, what: str, cure: str) -> Any:
    """Return the plain types and tensors in a torch file; nothing in it is run, and its checksums are compared.

    Args:
        path: of the file.
        what: names it in an error, as "state".
        cure: the end of an error: what to do.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than plain types and tensors.
    """
    _refuse_unreadable(path, what, cure)
    try:
        return load_checked(path)
    except Exception as error:  # damage can raise anything, anywhere in torch or zipfile
        raise CheckpointError(f"The {what} {path} cannot be read: {_damage(error)}. {cure}") from error


def read_state(path: Path, what: str, keys: tuple[str, ...], cure: str) -> dict[str, Any]:
    """Return what `read_saved` does, which must be a dict with these keys.

    Raises:
        CheckpointError: it is something else.
    """
    content = read_saved(path, what, cure)
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise CheckpointError(
            f"The {what} {path} must hold {', '.join(keys)}. It holds something else. {cure}"
        )
    return content


def _refuse_other_files(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(
            f"The checkpoint {path} does not exist. Check the path given as the checkpoint."
        )
    _refuse_unreadable(path, "checkpoint", "Save or download it again.")
    if not zipfile.is_zipfile(path) and tarfile.is_tarfile(path):
        raise CheckpointError(
            f"The checkpoint {path} is a tar archive. Unpack it, or save it again with torch.save."
        )


def _refuse_unreadable(path: Path, what: str, cure: str) -> None:
    """Raise CheckpointError when a file cannot hold anything that torch saved: missing, a folder, empty, cut short."""
    try:
        with regular(path).open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise CheckpointError(
            f"The {what} {path} cannot be opened: {error.strerror}. Check the path and its permissions."
        ) from error
    if not start:
        raise CheckpointError(f"The {what} {path} is empty. {cure}")
    if start == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        raise CheckpointError(f"The {what} {path} is damaged: it is cut short. {cure}")


def _damage(error: Exception) -> str:
    """Return in a few words what an exception of torch, zipfile or safetensors says about a file."""
    if isinstance(error, pickle.UnpicklingError):  # torch's text is about how to load without safety
        return "its pickle cannot be read"
    if isinstance(error, KeyError):  # the number of a byte that no pickle begins with
        return "it is not of the form that torch.save writes"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]


def _from_torch(path: Path) -> object:
    """Return the object a torch file holds; foreign parts of an archive come as placeholders."""
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _refuse_other_archives(path)
    try:
        with warnings.catch_warnings():  # torch warns about its own storage classes in old files
            warnings.simplefilter("ignore")
            return load_checked(path)
    except zipfile.BadZipFile:  # no other reader gets the right bytes either
        raise
    except Exception:  # a foreign class, or damage
        if not is_zip:
            refuse_foreign(path)
            raise
    return read_archive(path)


def _refuse_other_archives(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"The checkpoint {path} is a TorchScript program, not weights. "
            "Save model.state_dict() of the Python model."
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(
            f"The checkpoint {path} is a zip archive but not one of torch.save. Name the checkpoint in it."
        )


def _is_safetensors(path: Path) -> bool:
    """Tell by the start: the length of a JSON header (8 bytes, little-endian), then the header."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return len(start) == 9 and start[8:] == b"{" and length + 8 <= path.stat().st_size


def _from_safetensors(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt", device="cpu") as file:
        entries = {key: _from_json(text) for key, text in (file.metadata() or {}).items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    own = isinstance(entries.get("torchthin"), dict)
    masks = {n.removeprefix(MASK_PREFIX): t for n, t in tensors.items() if own and n.startswith(MASK_PREFIX)}
    state = {n: t for n, t in tensors.items() if not (own and n.startswith(MASK_PREFIX))}
    return checkpoint_from(path, {**entries, "state_dict": state, "masks": masks})


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:  # metadata of other tools is free text
        return text
