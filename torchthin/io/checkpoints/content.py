"""What a checkpoint holds, in any file format: nested dictionaries -> :class:`Checkpoint`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from torchthin.errors import CheckpointError
from torchthin.io.checkpoints.masks import unpacked
from torchthin.io.checkpoints.safe_pickle import StoredRecipe, foreign_origin, unsafe

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
    """The file's ``extras`` without what is neither a plain type nor a tensor."""
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    """Bool tensors, True = kept; empty when the file was not pruned by this package."""
    torchthin: dict[str, Any] | None = None
    """The entry this package writes: version, config, report."""
    thinning_recipes: tuple[StoredRecipe, ...] = ()
    """Distiller's recipes from the full-size class to the saved model, as Distiller wrote them."""
    skipped: tuple[str, ...] = ()
    """Entries left out because they hold foreign classes, as ``"optimizer_type (torch.optim.adam.Adam)"``."""


def checkpoint_from(path: Path, raw: object) -> Checkpoint:
    """Return what `raw`, read from `path`, holds. Foreign parts are `torchthin.io.checkpoints.safe_pickle.Foreign`.

    Raises:
        CheckpointError: there is no state dict, or it holds something else than tensors.
    """
    if (origin := foreign_origin(raw)) is not None:
        raise unsafe(path, f"an object of the class {origin}")
    if not isinstance(raw, Mapping):
        raise CheckpointError(
            f"The checkpoint {path} must hold a state dict. It holds {_type_of(raw)}. Save model.state_dict() instead."
        )
    state = _find_state(path, raw)
    entries = {} if state is raw else raw
    skipped: list[str] = []
    extras = _plain_part(entries.get("extras"), "extras", skipped)
    masks, record, arch = entries.get("masks"), entries.get("torchthin"), entries.get("arch")
    recipes = entries.get("thinning_recipes")
    if not isinstance(recipes, list) or not all(isinstance(recipe, StoredRecipe) for recipe in recipes):
        recipes = []
    for key, value in entries.items():
        if key not in (*STATE_KEYS, "extras") and value is not recipes:
            _plain_part(value, str(key), skipped)
    return Checkpoint(
        path=path,
        state_dict=_unwrapped(_checked_state(path, state)),
        epoch=_whole_number(entries.get("epoch")),
        arch=arch if isinstance(arch, str) else None,
        extras=extras if isinstance(extras, dict) else {},
        masks=unpacked(path, masks, entries.get("mask_shapes"))
        if isinstance(masks, Mapping) and isinstance(record, Mapping)
        else {},
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
            raise unsafe(path, f"the class {origin} under {key!r}")
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
                held = found[0] if found else f"{key} ({_type_of(value)})"
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
    if id(value) not in memo:  # a container may hold itself, or another one a thousand times
        memo[id(value)] = None
        if isinstance(value, Mapping):
            parts = {
                key: _plain_part(item, name, skipped, memo)
                for key, item in value.items()
                if foreign_origin(key) is None
            }
            memo[id(value)] = {
                key: part for key, part in parts.items() if part is not None or value[key] is None
            }
        else:
            memo[id(value)] = type(value)([_plain_part(item, name, skipped, memo) for item in value])
    return memo[id(value)]


def _whole_number(value: object) -> int:
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_floating_point():
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _type_of(value: object) -> str:
    return f"an object of type {type(value).__name__}"
