"""The table of importance criteria: one small pure function and one registration line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from torchthin.errors import ConfigError, near_matches

if TYPE_CHECKING:
    from torchthin.importance.channels import Channels

RowScore = Callable[[Tensor], Tensor]
"""Rows (channels, weights per channel) -> scores (channels,); higher = keep."""
ChannelScore = Callable[["Channels"], Tensor | None]
"""What is known of a group's channels -> scores (channels,), higher = keep; None: the group cannot be ranked by it."""


@dataclass(frozen=True)
class Criterion:
    """A registered criterion: a function of rows of weights, or of all that is known of a group's channels."""

    name: str
    of_rows: RowScore | None
    """Asked for every weight that makes the channels; the scores are added up."""
    of_channels: ChannelScore | None
    needs_data: bool = False
    absolute: bool = False
    """Scores of different groups compare as they are; else each is divided by its group's mean first."""


_CRITERIA: dict[str, Criterion] = {}


def register_criterion(name: str) -> Callable[[RowScore], RowScore]:
    """Return a decorator that registers a function of weights under `name`; a taken name raises `ConfigError`."""

    def register(score: RowScore) -> RowScore:
        _add(Criterion(name, score, None))
        return score

    return register


def register_channel_criterion(
    name: str, *, needs_data: bool = False, absolute: bool = False
) -> Callable[[ChannelScore], ChannelScore]:
    """Return a decorator that registers a function of `Channels`; for the arguments see `Criterion`."""

    def register(score: ChannelScore) -> ChannelScore:
        _add(Criterion(name, None, score, needs_data, absolute))
        return score

    return register


def _add(criterion: Criterion) -> None:
    if criterion.name in _CRITERIA:
        raise ConfigError(
            f"The importance criterion {criterion.name!r} is registered already. Choose another name."
        )
    _CRITERIA[criterion.name] = criterion


def criterion(name: str) -> Criterion:
    """Return the criterion registered under `name`; an unknown one raises `ConfigError` with near matches."""
    if name not in _CRITERIA:
        raise ConfigError(
            f"The importance criterion must be one of {', '.join(_CRITERIA)}. Got {name!r}."
            f"{near_matches(name, _CRITERIA)}"
        )
    return _CRITERIA[name]


def row_criterion(name: str) -> RowScore:
    """Return the function of rows that is registered under `name`; `ConfigError` where it is one of whole groups."""
    found = criterion(name).of_rows
    if found is None:
        raise ConfigError(
            f"The importance criterion {name!r} ranks groups, not single weights. Choose l1, l2 or max."
        )
    return found


def criteria() -> tuple[str, ...]:
    """Return the names of all registered criteria."""
    return tuple(_CRITERIA)
