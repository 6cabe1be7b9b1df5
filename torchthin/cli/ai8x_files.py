"""The files that ``prune`` writes for ai8x-training (``--training-to``) and ai8x-synthesis (``--synthesis-to``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Console
from torchthin.cli.model_args import on_device
from torchthin.cli.options import PruneOptions
from torchthin.errors import ConfigError
from torchthin.io.factory import build_model
from torchthin.max7800x.ai8x.training_file import save_for_training
from torchthin.max7800x.chips import chip_named
from torchthin.max7800x.synthesis.files import Synthesis, files_of, ready_for_synthesis
from torchthin.max7800x.synthesis.user_description import read_description
from torchthin.max7800x.target import Chip
from torchthin.thinning.recipe import cut

if TYPE_CHECKING:
    from torchthin.io.checkpoints import Checkpoint
    from torchthin.pruning.result import PruneResult
    from torchthin.thinning.recipe import Recipe

DEFAULT_CHIP = "MAX78000"


def write_for_training(
    options: PruneOptions,
    result: PruneResult,
    checkpoint: Checkpoint | None,
    recipe: Recipe | None,
    inputs: Any,
    console: Console,
) -> None:
    """Write the checkpoint of ``--training-to`` and say what is in it. recipe: from the full-size class to the result.

    Raises:
        InputError: there is no arch, or Distiller cannot express what was removed; nothing was written.
    """
    arch = options.files.arch or (checkpoint.arch if checkpoint else None)
    if arch is None:
        raise ConfigError("The --training-to needs the model's name in train.py. Give it as --arch NAME.")
    path = Path(options.files.training_to or "")
    device = next(result.model.parameters()).device
    full_size = on_device(build_model(options.model.model_factory, options.model.factory_args), device)
    removed = result.recipe if options.prune.thin else None
    keep = removed.keep if removed else {}
    save_for_training(
        path,
        full_size,
        result.model,
        {name: cut(mask, keep.get(name, {})) for name, mask in result.masks.items()},
        recipe,
        arch=arch,
        epoch=checkpoint.epoch if checkpoint else 0,
        extras=checkpoint.extras if checkpoint else None,
        example_inputs=inputs,
    )
    held = (
        "It holds Distiller's class ThinningRecipe: only ADI's train.py can open it, and not with weights_only."
        if recipe
        else "It holds masks, and no foreign class."
    )
    console.say(f"Saved {path} for train.py (arch {arch}). {held}")


def check_synthesis(options: PruneOptions) -> None:
    """Raise before anything runs when what is needed for synthesis is missing, or a file cannot be written."""
    files = options.synthesis
    if files.synthesis_to is None:
        for flag, value in (
            ("--synthesis-yaml", files.synthesis_yaml),
            ("--synthesis-chip", files.synthesis_chip),
        ):
            if value is not None:
                raise ConfigError(f"The {flag} needs --synthesis-to FOLDER, where to write.")
        return
    if not options.model.input_shape and options.model.dataset is None:
        raise ConfigError(
            "The --synthesis-to needs the input's size. Give --input-shape 1,3,128,128 or --dataset."
        )
    chip_named(_chip(options))
    files_of(files.synthesis_to, _name(options, "network"))
    if files.synthesis_yaml is not None:
        read_description(files.synthesis_yaml)


def synthesis_of(
    options: PruneOptions, result: PruneResult, checkpoint: Checkpoint | None, inputs: Any
) -> Synthesis | None:
    """Return the files, checked and not yet written; None when none were asked for."""
    if options.synthesis.synthesis_to is None:
        return None
    arch = options.files.arch or (checkpoint.arch if checkpoint else None)
    return ready_for_synthesis(
        result.model,
        inputs,
        options.synthesis.synthesis_to,
        chip=_chip(options),
        name=_name(options, arch or type(result.model).__name__.lower()),
        arch=arch,
        dataset=options.model.dataset,
        epoch=checkpoint.epoch if checkpoint else 0,
        extras=checkpoint.extras if checkpoint else None,
        description=options.synthesis.synthesis_yaml,
    )


def _chip(options: PruneOptions) -> str:
    """Return the chip that is asked for."""
    target = options.prune.target
    return options.synthesis.synthesis_chip or (target.name if isinstance(target, Chip) else DEFAULT_CHIP)


def _name(options: PruneOptions, otherwise: str) -> str:
    """Return the name of the files: that of the saved checkpoint, where there is one."""
    path = options.files.save_to
    return otherwise if path is None else Path(path).name.split(".")[0]
