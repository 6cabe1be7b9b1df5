"""Checkpoint file -> :class:`Checkpoint`."""

from __future__ import annotations

import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from torchthin.checkpoints.inert import foreign_origin, read_zip, refuse_foreign
from torchthin.errors import CheckpointError

STATE_KEYS = ("state_dict", "model", "model_state", "model_state_dict")
"""Where a checkpoint may keep its state dict, in this order; or it is the state dict itself."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
MASK_PREFIX = "torchthin.masks."
"""In safetensors files, which know only one flat list of tensors, masks are named so."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a checkpoint file; every tensor is on the CPU."""

    path: Path
    state_dict: dict[str, Any]
    """Names without ``module.``; tensors, and plain values a module keeps as its extra state."""
    epoch: int = 0
    arch: str | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    """The file's ``extras``, less what is neither a plain type nor a tensor."""
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    """Bool tensors, True = keep; empty when the file was not pruned by this package."""
    torchthin: dict[str, Any] | None = None
    """The entry this package writes: version, config, report."""
    skipped: tuple[str, ...] = ()
    """Entries left out because they hold foreign classes, as ``"optimizer_type (torch.optim.adam.Adam)"``."""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running any code it holds.

    Read are torch files (zip and the older format) and safetensors, holding a bare state dict or one under
    ``state_dict``, ``model``, ``model_state`` or ``model_state_dict``. Foreign classes elsewhere in the file,
    such as an optimizer's, are skipped and named in ``skipped``.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind, or its state dict needs a foreign
        class.
    """
    path = Path(path)
    try:
        return _read(path)
    except CheckpointError:
        raise
    except Exception as error:  # damage can raise anything, anywhere in torch, zipfile or safetensors
        raise _damaged(path, error) from error


def _read(path: Path) -> Checkpoint:
    _refuse_unreadable(path)
    if _is_safetensors(path):
        return _from_safetensors(path)
    raw = _from_torch(path)
    if (origin := foreign_origin(raw)) is not None:
        raise CheckpointError(
            f"The checkpoint {path} is refused: it holds an object of the class {origin}, and loading that "
            "can run "
            "code. Save model.state_dict() instead."
        )
    if not isinstance(raw, Mapping):
        raise CheckpointError(
            f"The checkpoint {path} must hold a state dict. It holds {_named(raw)}. "
            "Save model.state_dict() instead."
        )
    return _from_mapping(path, raw)


def _refuse_unreadable(path: Path) -> None:
    try:
        if path.is_dir():
            raise CheckpointError(
                f"The checkpoint {path} must be a file. It is a directory; name a file in it."
            )
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise CheckpointError(
            f"The checkpoint {path} does not exist. Check the path given as the checkpoint."
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be opened: {error.strerror}. Check its permissions."
        ) from error
    if not start:
        raise CheckpointError(f"The checkpoint {path} is empty. Save or download it again.")
    if start == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"The checkpoint {path} is damaged: it is cut short. Save or download it again."
        )
    if start != b"PK\x03\x04" and tarfile.is_tarfile(path):
        raise CheckpointError(
            f"The checkpoint {path} is a tar archive. Unpack it, or save it again with torch.save."
        )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, pickle.UnpicklingError):  # torch's text is about how to load without safety
        error = pickle.UnpicklingError("its pickle cannot be read")
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"The checkpoint {path} is damaged or no checkpoint ({reason[0][:120]}). Save or download it again."
    )


def _from_torch(path: Path) -> object:
    """Return the object a torch file holds; foreign parts of an archive come as placeholders."""
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _refuse_other_archives(path)
    try:
        with warnings.catch_warnings():  # old files make torch talk about its own storage classes
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a foreign class, or damage
        if not is_zip:
            refuse_foreign(path)
            raise
    return read_zip(path)


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


def _from_mapping(path: Path, raw: Mapping[Any, Any]) -> Checkpoint:
    state = _find_state(path, raw)
    entries = {} if state is raw else raw
    skipped: list[str] = []
    extras = _plain_part(entries.get("extras"), "extras", skipped)
    masks = entries.get("masks")
    record = entries.get("torchthin")
    for key, value in entries.items():
        if key not in (*STATE_KEYS, "extras"):
            _plain_part(value, str(key), skipped)
    return Checkpoint(
        path=path,
        state_dict=_unwrapped(_checked_state(path, state)),
        epoch=_whole_number(entries.get("epoch")),
        arch=entries["arch"] if isinstance(entries.get("arch"), str) else None,
        extras=extras if isinstance(extras, dict) else {},
        masks=dict(masks) if isinstance(masks, Mapping) and isinstance(record, Mapping) else {},
        torchthin=dict(record) if isinstance(record, Mapping) else None,
        skipped=tuple(dict.fromkeys(skipped)),
    )


def _find_state(path: Path, raw: Mapping[Any, Any]) -> Mapping[Any, Any]:
    for key in STATE_KEYS:
        value = raw.get(key)
        if isinstance(value, Mapping):
            return value
        if (origin := foreign_origin(value)) is not None:
            raise CheckpointError(
                f"The checkpoint {path} is refused: it holds the class {origin} under {key!r}, and loading "
                "that can "
                "run code. Save model.state_dict() instead."
            )
    if any(isinstance(value, torch.Tensor) for value in raw.values()):
        return raw
    found = ", ".join(map(repr, list(raw)[:5])) or "nothing"
    raise CheckpointError(
        f"The checkpoint {path} must be a state dict or hold one under {', '.join(STATE_KEYS[:-1])} "
        f"or {STATE_KEYS[-1]}. It holds {found}."
    )


def _checked_state(path: Path, state: Mapping[Any, Any]) -> dict[str, Any]:
    for key, value in state.items():
        if not isinstance(key, str):
            raise CheckpointError(f"The state dict of {path} must have names as keys. It has {key!r}.")
        found: list[str] = []
        if not isinstance(value, torch.Tensor):
            _plain_part(value, key, found)
            if found or not key.endswith("_extra_state"):
                held = found[0] if found else f"{key} ({_named(value)})"
                raise CheckpointError(
                    f"The state dict of {path} must hold tensors only. It holds {held}. "
                    "Save model.state_dict() instead."
                )
    if not state:
        raise CheckpointError(
            f"The state dict of {path} is empty. Save model.state_dict() of the model to prune."
        )
    return dict(state)


def _unwrapped(state: dict[str, Any]) -> dict[str, Any]:
    for prefix in WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _unwrapped({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _plain_part(
    value: object, name: str, skipped: list[str], memo: dict[int, object] | None = None
) -> object:
    """Return `value` without what is foreign in it; add the name and class of each such part to `skipped`."""
    memo = {} if memo is None else memo
    if (origin := foreign_origin(value)) is not None:
        skipped.append(f"{name} ({origin})")
        return None
    if not isinstance(value, Mapping | list | tuple | set):
        return value
    if id(value) not in memo:  # a container may hold itself, or one other a thousand times
        memo[id(value)] = None
        memo[id(value)] = _plain_container(value, name, skipped, memo)
    return memo[id(value)]


def _plain_container(
    value: Mapping[Any, Any] | list[Any] | tuple[Any, ...] | set[Any],
    name: str,
    skipped: list[str],
    memo: dict[int, object],
) -> object:
    if isinstance(value, Mapping):
        parts = {
            key: _plain_part(item, name, skipped, memo)
            for key, item in value.items()
            if foreign_origin(key) is None
        }
        return {key: part for key, part in parts.items() if part is not None or value[key] is None}
    return type(value)([_plain_part(item, name, skipped, memo) for item in value])


def _whole_number(value: object) -> int:
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_floating_point():
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _named(value: object) -> str:
    return f"an object of type {type(value).__name__}"


def _is_safetensors(path: Path) -> bool:
    """Tell by the start: the length of a JSON header (8 bytes, little-endian), then the header."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return (
        len(start) == 9
        and start[8:] == b"{"
        and int.from_bytes(start[:8], "little") + 8 <= path.stat().st_size
    )


def _from_safetensors(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt", device="cpu") as file:
        entries = {key: _from_json(text) for key, text in (file.metadata() or {}).items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    own = isinstance(entries.get("torchthin"), dict)
    masks = {n.removeprefix(MASK_PREFIX): t for n, t in tensors.items() if own and n.startswith(MASK_PREFIX)}
    state = {n: t for n, t in tensors.items() if not (own and n.startswith(MASK_PREFIX))}
    return _from_mapping(path, {**entries, "state_dict": state, "masks": masks})


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:  # metadata of other tools is free text
        return text
