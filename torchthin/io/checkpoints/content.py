"""What a checkpoint holds, whatever its file format: nested dictionaries -> :class:`Checkpoint`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from torchthin.errors import CheckpointError
from torchthin.io.checkpoints.inert import StoredRecipe, foreign_origin

STATE_KEYS = ("state_dict", "model", "model_state", "model_state_dict")
"""Where a checkpoint may keep its state dict, in this order; or it is the state dict itself."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""


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
    thinning_recipes: tuple[StoredRecipe, ...] = ()
    """What Distiller thinned the full-size class by, in its own terms."""
    skipped: tuple[str, ...] = ()
    """Entries left out because they hold foreign classes, as ``"optimizer_type (torch.optim.adam.Adam)"``."""


def checkpoint_from(path: Path, raw: object) -> Checkpoint:
    """Return what `raw`, read from `path`, holds. Foreign parts are :class:`~torchthin.io.checkpoints.inert.Foreign`.

    Raises:
        CheckpointError: there is no state dict, or it holds what is no tensor.
    """
    if (origin := foreign_origin(raw)) is not None:
        raise CheckpointError(
            f"The checkpoint {path} is refused: it holds an object of the class {origin}, and loading that can "
            "run code. Save model.state_dict() instead."
        )
    if not isinstance(raw, Mapping):
        raise CheckpointError(
            f"The checkpoint {path} must hold a state dict. It holds {_named(raw)}. "
            "Save model.state_dict() instead."
        )
    return _from_mapping(path, raw)


def _from_mapping(path: Path, raw: Mapping[Any, Any]) -> Checkpoint:
    state = _find_state(path, raw)
    entries = {} if state is raw else raw
    skipped: list[str] = []
    extras = _plain_part(entries.get("extras"), "extras", skipped)
    masks = entries.get("masks")
    record = entries.get("torchthin")
    recipes = entries.get("thinning_recipes")
    recipes = recipes if isinstance(recipes, list) else []
    recipes = recipes if all(isinstance(recipe, StoredRecipe) for recipe in recipes) else []
    for key, value in entries.items():
        if key not in (*STATE_KEYS, "extras") and value is not recipes:
            _plain_part(value, str(key), skipped)
    return Checkpoint(
        path=path,
        state_dict=_unwrapped(_checked_state(path, state)),
        epoch=_whole_number(entries.get("epoch")),
        arch=entries["arch"] if isinstance(entries.get("arch"), str) else None,
        extras=extras if isinstance(extras, dict) else {},
        masks=dict(masks) if isinstance(masks, Mapping) and isinstance(record, Mapping) else {},
        torchthin=dict(record) if isinstance(record, Mapping) else None,
        thinning_recipes=tuple(recipes),
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
