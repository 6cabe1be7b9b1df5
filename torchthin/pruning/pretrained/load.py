"""`from_pretrained`: a folder of a pruned model, also of one that no configuration describes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.config.files import parse_json
from torchthin.errors import CheckpointError
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.empty import build_empty
from torchthin.io.pretrained.folder import open_config, open_model, pretrained_class
from torchthin.pruning.pretrained.files import RECIPE
from torchthin.pruning.save_and_load import fill_


def from_pretrained(folder: str | Path, *, trust_remote_code: bool = False) -> nn.Module:
    """Return the model of a folder that `save_pretrained` wrote, in evaluation mode.

    The class is built from its configuration and thinned by the recipe in the folder; weights have the types of
    the files, and stay in them until something reads them. Where there is no recipe, the class loads the folder itself.

    Args:
        folder: on this machine.
        trust_remote_code: code that the configuration names is run.

    Raises:
        CheckpointError: something is missing, damaged, or does not fit. `ConfigError`: the configuration names code.
    """
    folder = Path(folder)
    if not (folder / RECIPE).is_file():  # its own loader knows older names of weights as well
        return open_model(folder, trust_remote_code=trust_remote_code)  # type: ignore[no-any-return]
    config = open_config(folder, trust_remote_code=trust_remote_code)
    kind = pretrained_class(folder, config, trust_remote_code=trust_remote_code)
    checkpoint = replace(read_checkpoint(folder), torchthin={"recipe": _recipe(folder / RECIPE)})
    with torch.random.fork_rng(devices=[]):
        model: Any = build_empty(partial(kind, config), checkpoint.state_dict.values())
    fill_(model, checkpoint)
    _add_generation_config_(model, folder)
    return model.eval()  # type: ignore[no-any-return]


def _recipe(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The recipe {path} cannot be read: {error}. Save the model again.") from error


def _add_generation_config_(model: Any, folder: Path) -> None:
    if (folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        with contextlib.suppress(AttributeError):  # a model that does not generate
            model.generation_config = GenerationConfig.from_pretrained(str(folder))
