"""Prune a model from the command line: ``torchthin prune``, and ``scripts/prune_with_ai8x.py``."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchthin.cli.options import EXAMPLE, PruneOptions, add_prune_arguments, prune_options
from torchthin.cli.shell import Parser, run_command
from torchthin.errors import ConfigError, TargetMissedError

DESCRIPTION = "Prune a model to a sparsity target and save masks, weights and a report."


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program of its own and return the exit code."""

    def command(arguments: Sequence[str]) -> int:
        parser = Parser(description=DESCRIPTION, epilog=EXAMPLE)
        add_prune_arguments(parser)
        return run(prune_options(parser.parse(arguments)))

    return run_command(command, argv)


def run(options: PruneOptions) -> int:
    """Do as told, and return the exit code. With ``--json``, stdout gets nothing but the JSON."""
    stdout = sys.stdout
    redirected = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    with redirected:  # the user's model may print as well
        facts = _list_weights(options) if options.list_weights else _prune(options)
    if options.json:
        print(json.dumps(facts, indent=2), file=stdout)
    refuse_missed_target(facts)
    return 0


def _prune(options: PruneOptions) -> dict[str, Any]:
    """Look at everything first, prune, write last; return the report as JSON types."""
    check_destinations(options)
    from torchthin.cli.gradual import check_training, prune_in_training, state_path
    from torchthin.cli.inputs import example_inputs, placed, usable_device
    from torchthin.cli.model import load_model
    from torchthin.cli.outcome import Voice, save
    from torchthin.cli.training import write_for_training
    from torchthin.pipeline import prune_with

    check_training(options)
    voice = Voice(quiet=options.quiet)
    device = usable_device(options.device)
    inputs = example_inputs(options.input_shape, options.dataset)
    model, checkpoint = load_model(options, voice)
    how = options.prune
    model, inputs = placed(model, device), inputs and tuple(value.to(device) for value in inputs)
    if options.train is None:
        result = prune_with(model, how, inputs, data=options.data)
    else:
        result = prune_in_training(model, inputs, options, voice)
    if how.chip is not None or how.budgets:
        how = replace(how, target_sparsity=result.report.target_sparsity)
    voice.say(result)
    for note in options.notes:
        voice.say(f"Note: {note}")
    if options.training_to is not None:
        write_for_training(options, result, checkpoint, inputs, voice)
    if options.save_to is None:
        if options.training_to is None:
            voice.say("Nothing was written; give --save-to FILE to keep the result.")
    else:
        source = options.checkpoint or options.model_factory
        save(Path(options.save_to), result, how, source=source, checkpoint=checkpoint, arch=options.arch)
        voice.say(f"Saved {options.save_to}.")
        if options.train is not None:
            state_path(options).unlink(missing_ok=True)
    return result.report.to_dict()


def refuse_missed_target(facts: Mapping[str, Any]) -> None:
    """Raise TargetMissedError (exit code 3) when the report says that less went than was asked."""
    if not facts.get("target_reached", True):
        raise TargetMissedError(
            f"The target was missed. {' '.join(facts['notes'])} "
            "Ask for a higher sparsity, or see with torchthin inspect what is in the way."
        )


def check_destinations(options: PruneOptions) -> None:
    """Raise before anything runs when a file to write cannot be written, or is the checkpoint or another output."""
    asked = {"--save-to": options.save_to, "--training-to": options.training_to}
    places = {flag: Path(path) for flag, path in asked.items() if path is not None}
    if not places:
        return
    from torchthin.checkpoints import check_destination

    for flag, path in places.items():
        check_destination(path)
        if options.checkpoint is not None and path.exists() and path.samefile(options.checkpoint):
            raise ConfigError(
                f"The file to save must not be the checkpoint itself. Got {path} for both; choose another name."
            )
        others = [
            other for other, there in places.items() if other != flag and there.resolve() == path.resolve()
        ]
        if others:
            raise ConfigError(f"The files of {flag} and {others[0]} must differ. Got {path} for both.")
    if options.training_to is not None and options.training_to.endswith(".safetensors"):
        raise ConfigError(
            f"The file of --training-to must be a torch checkpoint, which train.py reads. Got {options.training_to}."
        )


def _list_weights(options: PruneOptions) -> dict[str, Any]:
    """Print the weights that would be pruned, one to a line with its shape; return the same as JSON types."""
    from torchthin.factory import build_model
    from torchthin.targets import find_targets

    model = build_model(options.model_factory, options.factory_args)
    how = options.prune
    plan = find_targets(model, structured=how.rule.structured, weights=how.weights, keep=how.keep)
    shapes = {target.name: list(model.get_parameter(target.name).shape) for target in plan.targets}
    width = max(map(len, shapes))
    for name, shape in shapes.items():
        print(f"{name:<{width}}  {' x '.join(map(str, shape))}")
    for note in plan.notes:
        print(note, file=sys.stderr)
    return {"weights": shapes, "kept": list(plan.kept), "notes": list(plan.notes)}
