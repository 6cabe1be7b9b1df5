"""The files of a prune run: all places are looked at before it, and those besides ``--save-to`` are written after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchthin.cli.options import allocation_of
from torchthin.cli.paths import files_read, refuse_same_files
from torchthin.cli.report_files import json_twin
from torchthin.cli.synthesis import ready
from torchthin.cli.training_file import write_for_training
from torchthin.errors import ConfigError
from torchthin.graph.inputs import own_example
from torchthin.io.atomic import check_destination
from torchthin.max7800x.class_file.source import class_source, write_source

if TYPE_CHECKING:
    from torchthin.cli.options import PruneOptions
    from torchthin.cli.outcome import Voice
    from torchthin.io.checkpoints import Checkpoint
    from torchthin.pruning.result import PruneResult


def check_destinations(options: PruneOptions) -> None:
    """Raise before anything runs when a file to write cannot be written, or is the checkpoint or another output."""
    outputs = {
        "--save-to": options.save_to,
        "--training-to": options.training_to,
        "--class-to": options.class_to,
        "--report": options.report,
        "--report (its JSON)": None if options.report is None else str(json_twin(options.report)),
    }
    for path in outputs.values():
        if path is not None:
            check_destination(path)
    refuse_same_files(
        outputs,
        {
            **files_read(options.checkpoint, options.model_factory, options.data),
            "the --allocation": allocation_of(options.prune),
            "the --sensitivity": options.sensitivity,
            "the --synthesis-yaml": options.synthesis_yaml,
        },
    )
    if options.training_to is not None and options.training_to.endswith(".safetensors"):
        raise ConfigError(
            f"The file of --training-to must be a torch checkpoint, which train.py reads. Got {options.training_to}."
        )
    _check_class_to(options)


def _check_class_to(options: PruneOptions) -> None:
    if options.class_to is None:
        return
    if not options.class_to.endswith(".py"):
        raise ConfigError(f"The file of --class-to must end in .py. Got {options.class_to}.")
    if not options.prune.thin:
        raise ConfigError("The --class-to needs --thin: without it the class keeps its widths.")


def write_files(
    options: PruneOptions, result: PruneResult, checkpoint: Checkpoint | None, inputs: Any, voice: Voice
) -> bool:
    """Write what was asked for besides ``--save-to``, and say so; return whether there was any.

    Raises:
        InputError: one of them cannot be made of this model; none was written then.
    """
    text = None
    if options.class_to is not None:
        text = class_source(result.model, own_example(result.model) if inputs is None else inputs)
    synthesis = ready(options, result, checkpoint, inputs)
    if options.training_to is not None:
        write_for_training(options, result, checkpoint, inputs, voice)
    if options.class_to is not None and text is not None:
        write_source(options.class_to, text[1])
        voice.say(
            f"Saved {options.class_to}: the class {text[0]}, which loads the state dict of the thin model."
        )
    if synthesis is not None:
        synthesis.write()
        voice.say(synthesis)
    return options.training_to is not None or options.class_to is not None or synthesis is not None
