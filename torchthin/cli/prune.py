"""Prune a model from the command line: ``torchthin prune``, and ``scripts/prune_with_ai8x.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchthin.cli.console import Parser, run_command
from torchthin.cli.flags import talk_aside
from torchthin.cli.options import (
    EXAMPLE,
    RUN_TYPES,
    PruneOptions,
    add_prune_arguments,
    allocation_of,
    prune_options,
)
from torchthin.cli.processes import joined_processes
from torchthin.errors import ConfigError, TargetMissedError

DESCRIPTION = (
    "Prune a model to a sparsity or a budget, thin it if asked, and save weights, masks and a report."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program of its own and return the exit code."""

    def command(arguments: Sequence[str]) -> int:
        parser = Parser(description=DESCRIPTION, epilog=EXAMPLE)
        add_prune_arguments(parser)
        return run(prune_options(parser.parse(arguments)))

    return run_command(command, argv)


def run(options: PruneOptions) -> int:
    """Do as told, and return the exit code. With ``--json``, stdout gets nothing but the JSON."""
    if options.print_config or options.print_schema:
        _print_configuration(options)
        return 0
    with talk_aside(options.json), joined_processes(options) as rank:
        facts = _list_weights(options) if options.list_weights else _prune(options, rank)
    if options.json and rank == 0:
        print(json.dumps(facts, indent=2))
    refuse_missed_target(facts)
    return 0


def _prune(options: PruneOptions, rank: int) -> dict[str, Any]:
    """Look at everything first, prune, write last; return the report as JSON types. Of several processes the first one writes."""
    from torchthin.cli.files import check_destinations, write_files
    from torchthin.cli.gradual import check_training, prune_in_training, state_path
    from torchthin.cli.inputs import example_inputs, placed, usable_device
    from torchthin.cli.model import load_model
    from torchthin.cli.outcome import Voice, save
    from torchthin.cli.recovery import calibrated, check_recovery, recovered, recovers
    from torchthin.cli.report_files import (
        check_report,
        command_line,
        network_of,
        sensitivity_from,
        write_report,
    )
    from torchthin.cli.synthesis import check_synthesis
    from torchthin.pruning.one_shot import plan_pruning
    from torchthin.report.record import run_record

    check_destinations(options)
    check_training(options)
    check_recovery(options)
    check_synthesis(options)
    check_report(options.report, options.plots)
    wanted = options.report is not None or options.plots is not None
    if options.sensitivity is not None and not wanted:
        raise ConfigError("--sensitivity goes with --report or --plots. Give one of them as well.")
    curves = sensitivity_from(options.sensitivity or allocation_of(options.prune)) if wanted else None
    voice = Voice(quiet=options.quiet or rank > 0)
    device = usable_device(options.device)
    inputs = example_inputs(options.input_shape, options.dataset)
    model, checkpoint = load_model(options, voice)
    how = options.prune
    model, inputs = placed(model, device), inputs and tuple(value.to(device) for value in inputs)
    network = network_of(model, inputs) if options.report is not None else None
    data = calibrated(options, model, inputs)
    if options.train is None:
        result = plan_pruning(model, inputs, how, data=data).apply()
    else:
        result = prune_in_training(model, inputs, options, voice, data)
    if recovers(options) and result.recipe is not None:
        result = recovered(model, result, inputs, options, quiet=options.quiet or rank > 0)
    if rank > 0:
        return result.report.to_dict()
    voice.say(result)
    for note in options.notes:
        voice.say(f"Note: {note}")
    written = write_files(options, result, checkpoint, inputs, voice)
    if wanted:
        title = f"{options.model_factory}, pruned"
        record = run_record(
            result.report.to_dict(),
            {**how.to_dict(), "target_sparsity": result.report.request.target_sparsity},
            title=title,
            command=command_line(),
            network=network,
            sensitivity=curves,
        )
        for path in write_report(record, options.report, options.plots):
            voice.say(f"Saved {path}.")
        written = True
    if options.save_to is None:
        if not written:
            voice.say("Nothing was written; give --save-to FILE to keep the result.")
    else:
        source = options.checkpoint or options.model_factory
        save(Path(options.save_to), result, how, source=source, checkpoint=checkpoint, arch=options.arch)
        voice.say(f"Saved {options.save_to}.")
        if options.train is not None:
            state_path(options).unlink(missing_ok=True)
    return result.report.to_dict()


def _print_configuration(options: PruneOptions) -> None:
    from torchthin.cli.config_file import config_schema, config_text

    if options.print_schema:
        parser = Parser()
        add_prune_arguments(parser)
        helps = {action.dest: action.help or "" for action in parser._actions}
        print(json.dumps(config_schema(RUN_TYPES, helps), indent=2))
    else:
        print(config_text(options, RUN_TYPES), end="")


def refuse_missed_target(facts: Mapping[str, Any]) -> None:
    """Raise TargetMissedError (exit code 3) when the report says that less went than was asked."""
    if not facts.get("target_reached", True):
        raise TargetMissedError(
            f"The target was missed. {' '.join(facts['notes'])} "
            "Ask for a higher sparsity, or see with torchthin inspect what is in the way."
        )


def _list_weights(options: PruneOptions) -> dict[str, Any]:
    """Print the weights that would be pruned, one to a line with its shape; return the same as JSON types."""
    from torchthin.io.factory import build_model
    from torchthin.selection.targets import find_targets

    model = build_model(options.model_factory, options.factory_args)
    how = options.prune
    plan = find_targets(model, structured=how.structured, include=how.include, exclude=how.exclude)
    shapes = {target.name: list(model.get_parameter(target.name).shape) for target in plan.targets}
    width = max(map(len, shapes))
    for name, shape in shapes.items():
        print(f"{name:<{width}}  {' x '.join(map(str, shape))}")
    for note in plan.notes:
        print(note, file=sys.stderr)
    return {"weights": shapes, "kept": list(plan.excluded), "notes": list(plan.notes)}
