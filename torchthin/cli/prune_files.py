"""The files that ``prune`` writes: all are checked before it runs, and written after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.ai8x_files import synthesis_of, write_for_training
from torchthin.cli.console import Console
from torchthin.cli.files import check_files
from torchthin.cli.options import PruneOptions
from torchthin.cli.report import report_files
from torchthin.config import PruneConfig
from torchthin.errors import ConfigError
from torchthin.graph.inputs import own_example
from torchthin.max7800x.class_file.source import class_source, write_source
from torchthin.pruning.checkpoint import save_pruned, stored_recipe

if TYPE_CHECKING:
    from torchthin.io.checkpoints import Checkpoint
    from torchthin.pruning.result import PruneResult
    from torchthin.thinning.recipe import Recipe


def check_prune_files(options: PruneOptions) -> None:
    """Raise before anything runs when a file to write cannot be written, or is one that is read or another output."""
    files = options.files
    check_files(
        {
            "--save-to": files.save_to,
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
    if files.class_to is None:
        return
    if not files.class_to.endswith(".py"):
        raise ConfigError(f"The file of --class-to must end in .py. Got {files.class_to}.")
    if not options.prune.thin:
        raise ConfigError("The --class-to needs --thin: without it the class keeps its widths.")


def write_files(
    options: PruneOptions, result: PruneResult, checkpoint: Checkpoint | None, inputs: Any, console: Console
) -> bool:
    """Write what was asked for besides ``--save-to``, and say so; return whether there was any.

    Raises:
        InputError: one of them cannot be made of this model; none was written then.
    """
    files, named_class = options.files, None
    if files.class_to is not None:
        named_class = class_source(result.model, own_example(result.model) if inputs is None else inputs)
    synthesis = synthesis_of(options, result, checkpoint, inputs)
    if files.training_to is not None:
        recipe = whole_recipe(result if options.prune.thin else None, checkpoint)
        write_for_training(options, result, checkpoint, recipe, inputs, console)
    if files.class_to is not None and named_class is not None:
        name, text = named_class
        write_source(files.class_to, text)
        console.say(
            f"Saved {files.class_to}: the class {name}, which loads the state dict of the thinned model."
        )
    if synthesis is not None:
        synthesis.write()
        console.say(synthesis)
    return files.training_to is not None or files.class_to is not None or synthesis is not None


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
        whole_recipe(result if config.thin else None, checkpoint),
        source=source,
        epoch=checkpoint.epoch if checkpoint else 0,
        arch=arch or (checkpoint.arch if checkpoint else None),
        extras=checkpoint.extras if checkpoint else {},
    )


def whole_recipe(thinned: PruneResult | None, checkpoint: Checkpoint | None) -> Recipe | None:
    """Return what leads from the user's full-size class to the result: a thinned source carries the first part."""
    earlier = stored_recipe(checkpoint) if checkpoint else None
    recipe = thinned.recipe if thinned else None
    if earlier is None or recipe is None:
        return recipe or earlier
    return earlier.then(recipe)


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
