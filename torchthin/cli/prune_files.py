"""The files that ``prune`` writes, also for ai8x-training and ai8x-synthesis: checked before it runs, written after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Console
from torchthin.cli.files import check_files
from torchthin.cli.model_args import on_device
from torchthin.cli.pretrained import is_folder
from torchthin.cli.prune_options import PruneOptions
from torchthin.cli.report import report_files
from torchthin.config import PruneConfig
from torchthin.errors import ConfigError, InputError
from torchthin.graph.own_example import own_example
from torchthin.max7800x import Chip
from torchthin.max7800x.ai8x.training_file import save_for_training
from torchthin.max7800x.chips import chip_named
from torchthin.max7800x.class_file.from_factory import factory_source
from torchthin.max7800x.class_file.source import class_source, write_source
from torchthin.max7800x.synthesis.files import Synthesis, files_of, ready_for_synthesis
from torchthin.max7800x.synthesis.user_description import read_description
from torchthin.pruning.pretrained.files import check_folder
from torchthin.pruning.save_and_load import save_pruned
from torchthin.thinning.history import recipe_of
from torchthin.thinning.recipe import cut

if TYPE_CHECKING:
    from torch import nn

    from torchthin.io.checkpoints import Checkpoint
    from torchthin.pruning.result import PruneResult

DEFAULT_CHIP = "MAX78000"


def check_prune_files(options: PruneOptions) -> None:
    """Raise before anything runs when a file to write cannot be written, or is one that is read or another output."""
    files = options.files
    folder = is_folder(options.model.model_factory, files.save_to)
    if folder and files.save_to is not None:
        check_folder(files.save_to)
    if not files.described and not folder:
        raise ConfigError(
            "The --no-described goes with a model hf:FOLDER and --save-to FOLDER. Leave it out."
        )
    kept = {
        "state": options.training.train is not None,
        "recovery": bool(options.data.recovery.epochs),
    }  # beside the file while the run works
    check_files(
        {
            "--save-to": None if folder else files.save_to,
            **{
                f"--save-to (its {name})": files.save_to and f"{files.save_to}.{name}"
                for name, needed in kept.items()
                if needed
            },
            "--training-to": files.training_to,
            "--class-to": files.class_to,
            **report_files(options.report.report),
        },
        {
            **options.model.files,
            "the --data": options.data.data,
            "the --allocation": getattr(options.prune.target, "allocation", None),
            "the --sensitivity": options.report.sensitivity,
            "the --synthesis-yaml": options.synthesis.synthesis_yaml,
        },
    )
    if files.training_to is not None and files.training_to.endswith(".safetensors"):
        raise ConfigError(
            f"The file of --training-to must be a torch checkpoint, which train.py reads. Got {files.training_to}."
        )
    if files.class_to is not None and not files.class_to.endswith(".py"):
        raise ConfigError(f"The file of --class-to must end in .py. Got {files.class_to}.")
    if files.class_to is not None and not options.prune.thin:
        raise ConfigError("The --class-to needs --thin: without it the class keeps its widths.")
    _check_synthesis(options)


def _check_synthesis(options: PruneOptions) -> None:
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
    chip_named(_synthesis_chip(options))
    files_of(files.synthesis_to, _synthesis_name(options, "network"))
    if files.synthesis_yaml is not None:
        read_description(files.synthesis_yaml)


def write_files(
    options: PruneOptions, result: PruneResult, checkpoint: Checkpoint | None, inputs: Any, console: Console
) -> bool:
    """Write what was asked for besides ``--save-to``, and say so; return whether there was any.

    Raises:
        InputError: one of them cannot be made of this model; none was written then.
    """
    files, named_class = options.files, None
    if files.class_to is not None:
        named_class = _class_file(options, result.model, inputs)
    synthesis = synthesis_of(options, result, checkpoint, inputs)
    if files.training_to is not None:
        write_for_training(options, result, checkpoint, inputs, console)
    if files.class_to is not None and named_class is not None:
        name, text = named_class
        write_source(files.class_to, text)
        console.say(
            f"Saved {files.class_to}: {name}() builds the class, which loads the state dict of the thinned model."
        )
    if synthesis is not None:
        synthesis.write()
        console.say(synthesis)
    return files.training_to is not None or files.class_to is not None or synthesis is not None


def _class_file(options: PruneOptions, model: nn.Module, inputs: Any) -> tuple[str, str]:
    """Return the class of a chain of layers, else a function that makes what the factory builds smaller."""
    example = own_example(model) if inputs is None else inputs
    try:
        return class_source(model, example)
    except InputError:
        return factory_source(model, str(options.model.model_factory), options.model.factory_args, example)


def save(
    path: str | Path,
    result: PruneResult,
    config: PruneConfig,
    *,
    source: str,
    checkpoint: Checkpoint | None,
    arch: str | None = None,
) -> None:
    """Write the pruned model with the epoch, arch and extras of its source.

    Raises:
        CheckpointError: the file cannot be written; what was there before is untouched.
    """
    save_pruned(
        path,
        _in_source_dtypes(result.model.state_dict(), checkpoint),
        result.masks,
        result.report,
        config,
        recipe_of(result.model),
        source=source,
        epoch=checkpoint.epoch if checkpoint else 0,
        arch=arch or (checkpoint.arch if checkpoint else None),
        extras=checkpoint.extras if checkpoint else {},
    )


def _in_source_dtypes(state: dict[str, Any], checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Give each tensor its dtype in the source, such as bfloat16, wherever that changes no value."""
    import torch

    def stored(name: str, value: Any) -> Any:
        before = checkpoint.state_dict.get(name) if checkpoint else None
        if not isinstance(value, torch.Tensor) or not isinstance(before, torch.Tensor):
            return value
        converted = value.to(before.dtype)
        return converted if torch.equal(converted.to(value.dtype), value) else value

    return {name: stored(name, value) for name, value in state.items()}


def write_for_training(
    options: PruneOptions,
    result: PruneResult,
    checkpoint: Checkpoint | None,
    inputs: Any,
    console: Console,
) -> None:
    """Write the checkpoint of ``--training-to`` and say what is in it.

    Raises:
        InputError: there is no arch, or Distiller cannot express what was removed; nothing was written.
    """
    arch = options.files.arch or (checkpoint.arch if checkpoint else None)
    if arch is None:
        raise ConfigError("The --training-to needs the model's name in train.py. Give it as --arch NAME.")
    path = Path(options.files.training_to or "")
    device = next(result.model.parameters()).device
    full_size = on_device(options.model.build(), device)
    removed = result.recipe if options.prune.thin else None
    keep, recipe = removed.keep if removed else {}, recipe_of(result.model)
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
        chip=_synthesis_chip(options),
        name=_synthesis_name(options, arch or type(result.model).__name__.lower()),
        arch=arch,
        dataset=options.model.dataset,
        epoch=checkpoint.epoch if checkpoint else 0,
        extras=checkpoint.extras if checkpoint else None,
        description=options.synthesis.synthesis_yaml,
    )


def chip_of(options: PruneOptions) -> str | None:
    """Return the chip that channels are chosen for, or files written; None without."""
    target = options.prune.target
    if options.synthesis.synthesis_to is not None:
        return _synthesis_chip(options)
    return target.name if isinstance(target, Chip) else None


def _synthesis_chip(options: PruneOptions) -> str:
    """Return the chip that is asked for."""
    target = options.prune.target
    return options.synthesis.synthesis_chip or (target.name if isinstance(target, Chip) else DEFAULT_CHIP)


def _synthesis_name(options: PruneOptions, otherwise: str) -> str:
    """Return the name of the files: that of the saved checkpoint, where there is one."""
    path = options.files.save_to
    return otherwise if path is None else Path(path).name.split(".")[0]
