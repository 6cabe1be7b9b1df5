"""A pruned model of transformers as a folder, which is loaded and compared before it appears."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from torchthin.errors import ConfigError, InputError
from torchthin.graph.clone import clone
from torchthin.graph.inputs import Inputs, as_inputs, check_model, on_device_of
from torchthin.graph.own_example import own_example
from torchthin.io.pretrained.quiet import quiet_transformers
from torchthin.io.pretrained.undescribed import OTHERWISE
from torchthin.pruning.pretrained.described import Description, descriptions, full_size_config, why_other
from torchthin.pruning.pretrained.files import CARD, RECIPE, check_folder, copy_rest, write_folder
from torchthin.report.model_card import model_card
from torchthin.report.prune_report import PruneReport
from torchthin.thinning.history import recipe_of

SHARD = "5GB"
"""Largest file of weights, where the caller says nothing else."""


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    example_inputs: Any = None,
    *,
    described: bool = True,
    max_shard_size: str = SHARD,
) -> None:
    """Write a pruned model of transformers as a folder that its own ``from_pretrained`` loads, without this package.

    The configuration is found by trying: numbers of the model's own are changed until its class has the shapes of the model.
    The folder is then loaded with that class and its outputs are compared with the model's; only then it appears. It holds
    safetensors, config.json, generation_config.json, the files of tokenizer and processor (where the model came from a
    folder), and a model card. The model itself is left as it is.

    Args:
        model: what `prune` returned as ``result.model`` (`PruneResult.save_pretrained` adds the report), or `thin_` thinned.
        folder: new or empty.
        example_inputs: on which the loaded model is compared; None: made by the model's configuration.
        described: False: the configuration stays that of the full-size class, and the recipe is written beside it.
            `torchthin.integrations.transformers.from_pretrained` reads that, whatever was cut.
        max_shard_size: of one file of weights, such as "2GB".

    Raises:
        ConfigError: the model is not one of transformers. `CheckpointError`: the folder cannot be written.
        InputError: no configuration describes the model; the message names the field or the layers in the way.
        ProofError: what is written does not load. Nothing is left in all cases.
    """
    write_pretrained(model, folder, example_inputs, None, described=described, max_shard_size=max_shard_size)


def write_pretrained(
    model: Any,
    folder: str | Path,
    example_inputs: Any,
    report: PruneReport | None,
    *,
    described: bool,
    max_shard_size: str,
    more: Callable[[Path], object] | None = None,
) -> None:
    """Do what `save_pretrained` says, with the report in the model card.

    more: changes the files of the tokenizer, which were copied.
    """
    check_pretrained(model, "save_pretrained")
    target = check_folder(folder)
    write = partial(_write_model, model, report=report, max_shard_size=max_shard_size, more=more)
    if not described:
        config = full_size_config(model)
        write_folder(target, lambda made: write(config, made, described=False))
        return
    inputs, found = _inputs(model, example_inputs), descriptions(model)
    first = next(found)  # where there is none, it is said before anything is written
    write_folder(target, lambda made: _write_right(write, model, made, inputs, chain([first], found)))


def _write_right(
    write: Callable[..., None], model: Any, made: Path, inputs: Inputs, candidates: Iterable[Description]
) -> None:
    """Write the model with the first configuration that loads and computes the same; refuse where none does."""
    whys = []
    for found in candidates:
        shutil.rmtree(made)
        made.mkdir()
        write(found.config, made, described=True)
        why = why_other(model, made, inputs, found)
        if why is None:
            return
        whys.append(why)
    raise InputError(
        f"A configuration has all shapes of the pruned {type(model).__name__}, but computes something else: {whys[0]}. "
        f"Leave that size as it is, or {OTHERWISE}."
    )


def _write_model(
    model: Any,
    config: Any,
    made: Path,
    *,
    report: PruneReport | None,
    max_shard_size: str,
    described: bool,
    more: Callable[[Path], object] | None,
) -> None:
    twin: Any = clone(model, lambda name, tensor: tensor)  # its configuration is exchanged, not the caller's
    twin.config = config
    names = {} if described else {"save_original_format": False}  # `load_into` knows the names of the model
    with quiet_transformers():
        twin.save_pretrained(made, max_shard_size=max_shard_size, **names)
    recipe = recipe_of(model)
    if not described and recipe is not None:
        recipe = recipe.of_channels  # the configuration says how many layers there are
        (made / RECIPE).write_text(json.dumps(recipe.to_dict()), encoding="utf-8")
    copy_rest(model, made)
    if more is not None:
        more(made)
    text = model_card(type(model).__name__, report, described=described, base=_base(model))
    (made / CARD).write_text(text, encoding="utf-8")


def _base(model: Any) -> str:
    return Path(getattr(model.config, "name_or_path", "") or "").name


def check_pretrained(model: Any, function: str) -> None:
    """Refuse what is no model of transformers, in the name of the public `function`.

    Raises:
        ConfigError: naming what it is.
    """
    check_model(model, function)
    if not all(hasattr(model, name) for name in ("config", "save_pretrained", "from_pretrained")):
        raise ConfigError(
            f"The model of {function} must be a PreTrainedModel of transformers. Got {type(model).__name__}; "
            "use torchthin.save, or result.save."
        )


def _inputs(model: nn.Module, example_inputs: Any) -> Inputs:
    example = own_example(model) if example_inputs is None else example_inputs
    if example is None:
        raise ConfigError(
            f"The configuration of {type(model).__name__} does not say what it takes. Give save_pretrained example_inputs."
        )
    return on_device_of(model, as_inputs(example))
