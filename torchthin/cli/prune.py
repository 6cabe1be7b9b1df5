"""Prune a model from the command line: ``torchthin prune``, and ``scripts/prune_with_ai8x.py``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torchthin.cli.config_file import config_schema, config_text
from torchthin.cli.console import Console, Parser, print_json, run_command, stdout_to_stderr
from torchthin.cli.flags_from_fields import Command
from torchthin.cli.pretrained import is_folder, save_folder
from torchthin.cli.prune_options import PruneOptions, add_prune_flags, file_flags, prune_options
from torchthin.cli.recovery import joined_processes
from torchthin.cli.report import check_report, command_line, network_of, sensitivity_from, write_report
from torchthin.config import Budget, Distiller, PruneConfig
from torchthin.errors import ConfigError, TargetMissedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchthin.io.checkpoints import Checkpoint
    from torchthin.pruning.result import PruneResult


@dataclass(frozen=True)
class Source:
    """What is pruned."""

    model: nn.Module
    inputs: tuple[Tensor, ...] | None
    """Example inputs as they were given."""
    example: Any
    """Example inputs, those that the model itself knows where thinning needs some and none were given."""
    checkpoint: Checkpoint | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a program of its own and return the exit code."""

    def command(arguments: Sequence[str]) -> int:
        parser = Parser(description=COMMAND.description, epilog=COMMAND.example)
        COMMAND.add_to(parser)
        return COMMAND.call(parser.parse(arguments))

    return run_command(command, argv)


def run(options: PruneOptions) -> int:
    """Do as asked, and return the exit code."""
    if options.source.print_schema:
        print_json(config_schema(file_flags()))
        return 0
    if options.source.print_config:
        print(config_text(options, file_flags()), end="")
        return 0
    with stdout_to_stderr(options.run.json), joined_processes(options) as rank:
        facts = list_weights(options) if options.run.list_weights else prune(options, rank)
    if options.run.json and rank == 0:
        print_json(facts)
    refuse_missed_target(facts)
    return 0


def prune(options: PruneOptions, rank: int) -> dict[str, Any]:
    """Check everything first, prune, write last; return the report as JSON types. Of several processes the first one writes."""
    check(options)
    reported = options.report
    curves = None
    if reported.report is not None or reported.plots is not None:
        curves = sensitivity_from(reported.sensitivity or allocation_of(options.prune))
    console = Console(quiet=options.run.quiet or rank > 0)
    source = load(options, console)
    network = None if reported.report is None else network_of(source.model, source.inputs)
    result, saved = pruned(options, source, console)
    if rank == 0:
        shown = {"network": network, "sensitivity": curves}
        write(options, source, result, console, shown, saved=saved)
    return result.report.to_dict()


def check(options: PruneOptions) -> None:
    """Raise before anything is read or built what is wrong with options that go together."""
    from torchthin.cli.gradual import check_training
    from torchthin.cli.prune_files import check_prune_files, chip_of
    from torchthin.cli.recovery import check_recovery

    reported = options.report
    check_prune_files(options)
    check_training(options)
    check_recovery(options)
    check_report(reported.report, reported.plots)
    if reported.sensitivity is not None and reported.report is None and reported.plots is None:
        raise ConfigError("--sensitivity goes with --report or --plots. Give one of them as well.")
    if reported.metric is not None and (chip_of(options) is None or options.training.train is not None):
        raise ConfigError(
            "--metric scores what a chip computes, before and after a cut at once. Give --chip or --synthesis-to, and no --train."
        )


def load(options: PruneOptions, console: Console) -> Source:
    """Return the model, its checkpoint and its inputs.

    Raises:
        ConfigError: thinning is asked for and there are no inputs.
        InputError: something given cannot be used.
    """
    from torchthin.graph.own_example import own_example

    inputs = options.model.inputs()
    model, checkpoint = options.model.load_model(console)
    example = own_example(model) if options.prune.thin and inputs is None else inputs
    if options.prune.thin and example is None:
        raise ConfigError(
            "The option --thin needs example inputs: channels are followed through one run of the model. "
            "Give --input-shape 1,3,224,224 or --dataset."
        )
    return Source(model, inputs, example, checkpoint)


def pruned(options: PruneOptions, source: Source, console: Console) -> tuple[PruneResult, bool]:
    """Return the pruned model: trained in between or at once, and recovered where data was given.

    Returns:
        The result, and whether it is in the folder of ``--save-to`` already, which took its weights one by one.
    """
    from torchthin.cli.chip_accuracy import with_chip_accuracy
    from torchthin.cli.gradual import prune_in_training
    from torchthin.cli.recovery import recovered, recovers
    from torchthin.pruning.one_shot import plan_pruning

    model, how = source.model, options.prune
    data = options.data.read(model, source.inputs, options.model, console)
    if options.training.train is not None:
        return prune_in_training(model, source.inputs, options, console, data), False
    timed = isinstance(how.target, Budget) and how.target.latency is not None
    with console.progress("Timing layers") if timed else nullcontext() as progress:
        plan = plan_pruning(model, source.example, how, data=data, learns=True, progress=progress)
    plan = replace(plan, refit=None)  # the command refits whatever ranked the channels
    if recovers(options) and plan.recipe is not None:
        result = recovered(model, plan.apply(), source.example, data, options, console)
        return with_chip_accuracy(model, result, source.example, data, options), False
    target = options.files.save_to
    if target is not None and is_folder(options.model.model_factory, target):
        return save_folder(plan, options.model.model_factory, target, described=options.files.described), True
    return with_chip_accuracy(model, plan.apply(), source.example, data, options), False


def write(
    options: PruneOptions,
    source: Source,
    result: PruneResult,
    console: Console,
    shown: Mapping[str, Any],
    *,
    saved: bool,
) -> None:
    """Say and write what was asked for.

    Args:
        options: what was asked for.
        source: what was pruned.
        result: what came of it.
        console: where it is said.
        shown: what only the report has.
        saved: whether the folder of transformers is there already.
    """
    from torchthin.cli.gradual import state_path
    from torchthin.cli.prune_files import save, write_files
    from torchthin.report.record import run_record

    console.say(result)
    for note in options.notes:
        console.say(f"Note: {note}")
    target = options.files.save_to
    folder = is_folder(options.model.model_factory, target)
    if folder and target is not None and not saved:  # it may be refused, and then nothing is written
        result.save_pretrained(target, described=options.files.described)
    written = write_files(options, result, source.checkpoint, source.inputs, console)
    page, plots = options.report.report, options.report.plots
    if page is not None or plots is not None:
        facts = {**options.prune.to_dict(), "target_sparsity": result.report.request.target_sparsity}
        title = f"{options.model.model_factory}, pruned"
        record = run_record(result.report.to_dict(), facts, title=title, command=command_line(), **shown)
        for path in write_report(record, page, plots):
            console.say(f"Saved {path}.")
            written = True
    if target is not None and not folder:
        name = options.model.checkpoint or options.model.model_factory
        save(
            target, result, options.prune, source=name, checkpoint=source.checkpoint, arch=options.files.arch
        )
    if target is not None:
        console.say(f"Saved {target}.")
        if options.training.train is not None:
            state_path(options).unlink(missing_ok=True)
    elif not written:
        console.say("Nothing was written; give --save-to FILE to keep the result.")


def refuse_missed_target(facts: Mapping[str, Any]) -> None:
    """Raise TargetMissedError (exit code 3) when the report says that less was removed than was asked."""
    if not facts.get("target_reached", True):
        raise TargetMissedError(
            f"The target was missed. {' '.join(facts['notes'])} "
            "Ask for a higher sparsity, or see with torchthin inspect what is in the way."
        )


def allocation_of(config: PruneConfig) -> str | None:
    """Return the file of measured losses, or auto, by which a budget is spread; None where it is not."""
    return config.target.allocation if isinstance(config.target, Budget) else None


def list_weights(options: PruneOptions) -> dict[str, Any]:
    """Print the weights that would be pruned, one to a line with its shape; return the same as JSON types."""
    from torchthin.graph.own_example import own_example
    from torchthin.pruning.per_weight import targets_per_weight
    from torchthin.selection.prunable_weights import find_prunable_weights

    how, inputs = options.prune, options.model.inputs()
    model = options.model.build()
    if inputs is None and how.thin:
        inputs = own_example(model)
    if inputs is None or not how.structured or isinstance(how.target, Distiller):
        found = targets_per_weight(model, how)
    else:
        found = find_prunable_weights(
            model, structured=True, include=how.include, exclude=how.exclude, coupled=True
        )
    shapes = {target.name: list(model.get_parameter(target.name).shape) for target in found.targets}
    width = max(map(len, shapes))
    for name, shape in shapes.items():
        print(f"{name:<{width}}  {' x '.join(map(str, shape))}")
    for note in found.notes:
        print(note, file=sys.stderr)
    return {"weights": shapes, "kept": list(found.excluded), "notes": list(found.notes)}


_USUAL = (
    "model", "--model-factory", "--factory-args", "--checkpoint", "--dataset", "--input-shape", "--device", "--data",
    "--recover-epochs", "--method", "--target-sparsity", "--agp-steps", "--target-macs", "--target-params", "--target-latency",
    "--ratio", "--criterion", "--weights", "--keep", "--thin", "--chip", "--target-cycles", "--arch", "--save-to", "--report",
    "--json",
)  # fmt: skip
COMMAND = Command(
    "Prune a model to a sparsity or a budget, thin it if asked, and save weights, masks and a report.",
    """\
example:
  %(prog)s --model-factory models/net.py:small --checkpoint best.pth --input-shape 1,3,128,128 \\
      --target-sparsity 0.5 --thin --save-to thin.pth
""",
    add_prune_flags,
    prune_options,
    run,
    _USUAL,
)
