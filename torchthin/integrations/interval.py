"""When a callback calls `Pruner.step`."""

from __future__ import annotations

from typing import Any

from torchthin.errors import ConfigError
from torchthin.pruning.gradual.pruner import Pruner

EPOCH = "epoch"


def checked(pruner: Any, every: Any, thin: Any) -> None:
    """Refuse arguments of a callback that cannot be used.

    Raises:
        ConfigError: no Pruner, or `every` is neither "epoch" nor a number of optimizer steps.
    """
    if not isinstance(pruner, Pruner):
        raise ConfigError(
            f"The pruner of PruneCallback must be a torchthin.Pruner. Got {type(pruner).__name__}."
        )
    whole = type(every) is int and every >= 1
    if every != EPOCH and not whole:
        raise ConfigError(
            f"The every of PruneCallback must be 'epoch' or a number of optimizer steps of at least 1. Got {every!r}."
        )
    if not isinstance(thin, bool):
        raise ConfigError(f"The thin of PruneCallback must be true or false. Got {thin!r}.")
