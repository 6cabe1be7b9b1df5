"""What the callbacks of all frameworks share: their arguments, and a class that is made when it is first asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from torchthin.errors import ConfigError
from torchthin.pruning.gradual.pruner import Pruner

EPOCH = "epoch"
NAME = "PruneCallback"


def check_arguments(pruner: Any, every: Any, thin: Any) -> None:
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


def callback_class(module: str, hooks: type[Any], base: str, needs: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for `module`, whose class `PruneCallback` derives from one of a package that may be missing.

    Args:
        module: name of the module.
        hooks: what the class does.
        base: module and name of the framework's class.
        needs: the package, as an error names it; the module's name is the extra that installs it.
    """

    def attribute(name: str) -> Any:
        if name != NAME:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        path, _, local = base.rpartition(".")
        try:
            framework = getattr(importlib.import_module(path), local)
        except ImportError as error:
            extra = module.rpartition(".")[2]
            raise ConfigError(
                f"PruneCallback needs {needs}: {error}. Install it with pip install 'torchthin[{extra}]'."
            ) from error
        made = type(NAME, (hooks, framework), {"__doc__": hooks.__doc__, "__module__": module})
        setattr(sys.modules[module], NAME, made)
        return made

    return attribute
