"""``hf:FOLDER``: a folder of transformers where commands take a model factory, and the folder that ``prune`` writes of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from torchthin.pruning.plan import PruningPlan
    from torchthin.pruning.result import PruneResult

PREFIX = "hf:"
_FILES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".safetensors")
"""Endings of checkpoints: other names are folders, where the model came from one."""


def folder_of(factory: str | None) -> str | None:
    """Return the folder that ``hf:FOLDER`` names; None where a factory is named."""
    return factory[len(PREFIX) :] if factory is not None and factory.startswith(PREFIX) else None


def check_source(folder: str | None, given: Mapping[str, Any], *, trusted: bool) -> None:
    """Refuse flags that do not go with the source of the model.

    Args:
        folder: as `folder_of` returns it.
        given: flag -> value of what only a factory takes; None: not given.
        trusted: whether ``--trust-remote-code`` was given.

    Raises:
        ConfigError: naming the flag.
    """
    if folder is None:
        if trusted:
            raise ConfigError("The --trust-remote-code goes with a model hf:FOLDER. Leave it out.")
        return
    wrong = next((flag for flag, value in given.items() if value is not None), None)
    if wrong is not None:
        raise ConfigError(
            f"The {wrong} does not go with {PREFIX}{folder}, which has its own weights and configuration. Leave it out."
        )


def open_folder(folder: str, *, trusted: bool) -> nn.Module:
    """Return the model of a folder, also of a pruned one.

    Raises:
        InputError: the folder cannot be used.
    """
    from torchthin.pruning.pretrained.load import from_pretrained

    return from_pretrained(folder, trust_remote_code=trusted)


def save_folder(plan: PruningPlan, factory: str, target: str, *, described: bool) -> PruneResult:
    """Carry out a plan into a folder of transformers, tensor by tensor; the same call that was interrupted is continued.

    Args:
        plan: of a model as its folder holds it.
        factory: ``hf:FOLDER``, where the model came from.
        target: the folder to write.
        described: with a configuration of the new sizes, for the class's own loader.
    """
    from torchthin.pruning.pretrained.save import SHARD
    from torchthin.pruning.pretrained.streamed import save_plan

    source = _state_of(Path(factory.removeprefix(PREFIX)))
    return save_plan(plan, target, described=described, max_shard_size=SHARD, source=source)


def _state_of(folder: Path) -> str:
    """Return a text that is another one when a file of the folder is changed."""
    paths = sorted(path for path in folder.resolve().iterdir() if path.is_file())
    return repr([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths])


def is_folder(factory: str | None, save_to: str | None) -> bool:
    """Whether ``--save-to`` names a folder of transformers, by its ending and by where the model came from."""
    return save_to is not None and folder_of(factory) is not None and not Path(save_to).name.endswith(_FILES)
