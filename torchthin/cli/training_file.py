"""What ``--training-to`` writes: the result as a checkpoint for ai8x-training's train.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.inputs import placed
from torchthin.cli.outcome import whole_recipe
from torchthin.errors import ConfigError
from torchthin.io.factory import build_model
from torchthin.max7800x.ai8x.training_file import save_for_training
from torchthin.thinning.recipe import cut

if TYPE_CHECKING:
    from torchthin.cli.options import PruneOptions
    from torchthin.cli.outcome import Voice
    from torchthin.io.checkpoints import Checkpoint
    from torchthin.pruning.result import PruneResult


def write_for_training(
    options: PruneOptions, result: PruneResult, checkpoint: Checkpoint | None, inputs: Any, voice: Voice
) -> None:
    """Write the checkpoint of ``--training-to`` and say what is in it.

    Raises:
        InputError: there is no arch, or Distiller cannot express what was removed; nothing was written.
    """
    arch = options.arch or (checkpoint.arch if checkpoint else None)
    if arch is None:
        raise ConfigError("The --training-to needs the model's name in train.py. Give it as --arch NAME.")
    path = Path(options.training_to or "")
    recipe = whole_recipe(result if options.prune.thin else None, checkpoint)
    full_size = placed(build_model(options.model_factory, options.factory_args), device_of(result))
    save_for_training(
        path,
        full_size,
        result.model,
        _masks_left(result, thinned=options.prune.thin),
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
    voice.say(f"Saved {path} for train.py (arch {arch}). {held}")


def device_of(result: PruneResult) -> Any:
    """Return the device that the result is on."""
    return next(result.model.parameters()).device


def _masks_left(result: PruneResult, *, thinned: bool) -> dict[str, Any]:
    """Return the masks in the shapes that the result's parameters have."""
    recipe = result.recipe if thinned else None
    keep = recipe.keep if recipe else {}
    return {name: cut(mask, keep.get(name, {})) for name, mask in result.masks.items()}
