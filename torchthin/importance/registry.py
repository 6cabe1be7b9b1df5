"""The table of importance criteria: one small pure function and one registration line each."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from torchthin.errors import ConfigError, near_matches

Criterion = Callable[[Tensor], Tensor]
"""Rows (channels, weights per channel) -> scores (channels,); higher = keep."""

_CRITERIA: dict[str, Criterion] = {}


def register_criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Return a decorator that registers a criterion under `name`; a taken name raises `ConfigError`."""

    def register(criterion: Criterion) -> Criterion:
        if name in _CRITERIA:
            raise ConfigError(
                f"The importance criterion {name!r} is registered already. Choose another name."
            )
        _CRITERIA[name] = criterion
        return criterion

    return register


def criterion(name: str) -> Criterion:
    """Return the criterion registered under `name`; an unknown one raises `ConfigError` with near matches."""
    if name not in _CRITERIA:
        raise ConfigError(
            f"The importance criterion must be one of {', '.join(_CRITERIA)}. Got {name!r}."
            f"{near_matches(name, _CRITERIA)}"
        )
    return _CRITERIA[name]


def criteria() -> tuple[str, ...]:
    """Return the names of all registered criteria."""
    return tuple(_CRITERIA)
