"""A pruned model of transformers as a folder, which is loaded and compared before it appears."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.errors import ConfigError, InputError
from torchthin.graph.clone import clone
from torchthin.graph.inputs import Inputs, as_inputs, check_model, on_device_of
from torchthin.graph.own_example import own_example
from torchthin.io.checkpoints.stream import size_in_bytes
from torchthin.io.pretrained.quiet import quiet_transformers
from torchthin.io.pretrained.undescribed import OTHERWISE
from torchthin.pruning.pretrained.described import Description, descriptions, full_size_config, why_other
from torchthin.pruning.pretrained.files import CARD, RECIPE, check_folder, clear_but, copy_rest, write_folder
from torchthin.pruning.pretrained.weights import Weights, saved_forms
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
    max_shard_size: int | str = SHARD,
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
    max_shard_size: int | str,
    more: Callable[[Path], object] | None = None,
) -> None:
    """Do what `save_pretrained` says, with the report in the model card.

    more: changes the files of the tokenizer, which were copied.
    """
    check_pretrained(model, "save_pretrained")
    size_in_bytes(max_shard_size)
    target, forms = check_folder(folder), saved_forms(model, described=described)
    weights = None if forms is None else Weights(forms, lambda tensor: tensor, max_shard_size)
    contents = Contents(model, report, weights, described, max_shard_size, more)
    # where there is none, it is said before anything is written
    found = candidates(model, example_inputs, described=described)

    def write(made: Path) -> None:
        contents.write_weights(made)
        contents.write_right(made, found)

    write_folder(target, write)


@dataclass(frozen=True)
class Candidates:
    """Configurations to be tried, and what a loaded model is compared on; of a folder for our own loader neither is asked."""

    found: Iterable[Description]
    inputs: Inputs | None


def candidates(model: Any, example_inputs: Any, *, described: bool) -> Candidates:
    """Return what `save_pretrained` tries for a model, which may be without values.

    Raises:
        InputError: no configuration describes it.
    """
    if not described:
        return Candidates([Description(full_size_config(model), None)], None)
    inputs, found = _inputs(model, example_inputs), descriptions(model)
    return Candidates(chain([next(found)], found), inputs)


@dataclass(frozen=True)
class Contents:
    """What goes into a folder."""

    model: Any
    report: PruneReport | None
    weights: Weights | None
    """None: the class writes them itself, since it writes others than it has."""
    described: bool
    max_shard_size: int | str = SHARD
    """Where the class writes them."""
    more: Callable[[Path], object] | None = None
    """Changes the files of the tokenizer, which were copied."""

    def write_weights(self, made: Path) -> None:
        """Write the files of weights, those that are there already apart."""
        if self.weights is not None:
            self.weights.write(made)

    def write_right(self, made: Path, candidates: Candidates) -> None:
        """Write the rest for the first configuration with which the folder loads and computes the same.

        Raises:
            InputError: there is none.
        """
        whys = []
        for found in candidates.found:
            clear_but(made, () if self.weights is None else self.weights.files)
            self._write_rest(made, found.config)
            why = None if candidates.inputs is None else why_other(self.model, made, candidates.inputs, found)
            if why is None:
                return
            whys.append(why)
        raise InputError(
            f"A configuration has all shapes of the pruned {type(self.model).__name__}, but computes something else: {whys[0]}. "
            f"Leave that size as it is, or {OTHERWISE}."
        )

    def _write_rest(self, made: Path, config: Any) -> None:
        """Write all but the weights, or all where the class writes those."""
        twin: Any = clone(
            self.model, lambda name, tensor: tensor
        )  # its configuration is exchanged, not the caller's
        twin.config = config
        with quiet_transformers():
            if self.weights is not None:
                _write_without_weights(twin, made)
            else:
                names = (
                    {} if self.described else {"save_original_format": False}
                )  # `load_into` knows the model's names
                twin.save_pretrained(made, max_shard_size=self.max_shard_size, **names)
        recipe = recipe_of(self.model)
        if not self.described and recipe is not None:
            recipe = recipe.of_channels  # the configuration says how many layers there are
            (made / RECIPE).write_text(json.dumps(recipe.to_dict()), encoding="utf-8")
        copy_rest(self.model, made)
        if self.more is not None:
            self.more(made)
        text = model_card(
            type(self.model).__name__, self.report, described=self.described, base=_base(self.model)
        )
        (made / CARD).write_text(text, encoding="utf-8")


def _write_without_weights(model: Any, made: Path) -> None:
    """Let the class write its configurations and code, beside one number in place of weights, which are written otherwise."""
    with tempfile.TemporaryDirectory(dir=made.parent) as beside:
        model.save_pretrained(beside, state_dict={"none": torch.zeros(1)})
        for path in Path(beside).iterdir():
            if path.suffix != ".safetensors":
                path.replace(made / path.name)


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
    inputs = as_inputs(example)
    return inputs if next(model.parameters()).is_meta else on_device_of(model, inputs)
