"""The options of ``torchthin prune``, and how flags are merged over a configuration file over the defaults."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torchthin.cli.config_file import read_config, schedule_options
from torchthin.cli.data_args import DataArgs, MetricArgs
from torchthin.cli.flags_from_fields import (
    Flag,
    add_flags,
    add_group,
    all_flags,
    flags_of,
    json_option,
    like,
    part,
    parts_of,
    read,
)
from torchthin.cli.model_args import PositionalModelArgs
from torchthin.cli.pretrained import folder_of
from torchthin.cli.targets import chip_flags, prune_config, prune_flags
from torchthin.config import PruneConfig, option


@dataclass(frozen=True)
class TrainingArgs:
    """How the user's own function trains between the steps."""

    train: str | None = option(
        None,
        "--train",
        "function(model, step) that trains the model for a while; called after each step, masks are enforced",
        "MODULE:FUNCTION",
    )
    optimizer: str | None = option(
        None,
        "--optimizer",
        "function(model) that returns an optimizer; --train is then called with it as third argument",
        "MODULE:FUNCTION",
    )
    resume: bool = option(
        False,
        "--resume",
        "continue from FILE.state, which an interrupted run left beside the FILE of --save-to",
    )


@dataclass(frozen=True)
class OutputFiles:
    """Checkpoints and code to write."""

    arch: str | None = option(
        None, "--arch", "written into the saved file (default: the checkpoint's)", "NAME"
    )
    save_to: str | None = option(
        None,
        "--save-to",
        "file to write: .safetensors or a torch checkpoint, by its name (without it: none); of hf:FOLDER a folder that "
        "transformers loads",
        "FILE",
    )
    described: bool = option(
        True,
        "--no-described",
        "folder of --save-to: with the full-size configuration and the recipe, for "
        "torchthin.integrations.transformers.from_pretrained",
    )
    training_to: str | None = option(
        None,
        "--training-to",
        "checkpoint for ai8x-training's train.py: it shrinks the full-size class on loading (needs --arch)",
        "FILE",
    )
    class_to: str | None = option(
        None,
        "--class-to",
        "Python file to write: the class at its new widths, or a function that builds it (needs --thin)",
        "FILE",
    )


@dataclass(frozen=True)
class SynthesisArgs:
    """What is written for ai8x-synthesis."""

    synthesis_to: str | None = option(
        None,
        "--synthesis-to",
        "folder for ai8x-synthesis: checkpoint with BatchNorm folded, network description, sample input",
        "FOLDER",
    )
    synthesis_yaml: str | None = option(
        None,
        "--synthesis-yaml",
        "your network description: a corrected copy of it is written, with its comments",
        "FILE",
    )
    synthesis_chip: str | None = option(
        None, "--synthesis-chip", "chip of these files (default: --chip, or MAX78000)", "NAME"
    )


@dataclass(frozen=True)
class ReportArgs:
    """The report to write."""

    report: str | None = option(
        None, "--report", "report as one page that needs no network, with its JSON beside it", "FILE.html"
    )
    plots: str | None = option(None, "--plots", "the report's figures as PNG (extra plot)", "FOLDER")
    sensitivity: str | None = option(
        None,
        "--sensitivity",
        "curves for the report: what torchthin sensitivity --save-to wrote (default: --allocation's)",
        "FILE",
    )
    metric: str | None = like(
        MetricArgs,
        "metric",
        help="function(model) that returns a number, higher is better: for a chip, the score before and after the cut, in "
        "floating point and in its integers (default: outputs are compared on --data)",
    )


@dataclass(frozen=True)
class RunArgs:
    """What is printed."""

    json: bool = json_option()
    quiet: bool = option(False, "--quiet", "print errors only")
    list_weights: bool = option(False, "--list-weights", "print the weights that would be pruned, and stop")


@dataclass(frozen=True)
class SourceArgs:
    """Where options come from, and where they go: given on the command line only."""

    config: str | None = option(
        None, "--config", "YAML file with these options as keys; flags win over it", "FILE"
    )
    print_config: bool = option(False, "--print-config", "print all options as such a file, and stop")
    print_schema: bool = option(False, "--print-schema", "print the JSON Schema of such files, and stop")
    distiller_schedule: str | None = option(
        None,
        "--distiller-schedule",
        "YAML schedule of Distiller: its pruner instead of --method, --target-sparsity and --weights",
        "FILE",
    )
    pruner: str | None = option(None, "--pruner", "which pruner of that schedule, if it has several", "NAME")


@dataclass(frozen=True)
class PruneOptions:
    """All options of a prune run."""

    prune: PruneConfig
    model: PositionalModelArgs = part("model")
    data: DataArgs = part("data")
    training: TrainingArgs = part("training between the --agp-steps")
    files: OutputFiles = part("output")
    synthesis: SynthesisArgs = part("output")
    report: ReportArgs = part("output")
    run: RunArgs = part("output")
    source: SourceArgs = part("output")
    notes: tuple[str, ...] = ()
    """What of a Distiller schedule was left out."""


@cache
def file_flags() -> Mapping[str, Flag]:
    """Return all options that a configuration file may have: key -> flag."""
    elsewhere = {*flags_of(SourceArgs), "model"}  # given on the command line only; the file has model_factory
    own = {key: flag for key, flag in all_flags(PruneOptions).items() if key not in elsewhere}
    return {**own, **prune_flags()}


def add_prune_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``prune`` to `parser`."""
    for item, kind in parts_of(PruneOptions):
        if kind is TrainingArgs:  # how to prune comes before it
            own = [flag for key, flag in prune_flags().items() if key not in chip_flags()]
            add_group(parser, "pruning", own)
            add_chip_flags(parser)
        add_flags(parser, kind, item.metadata["title"])


def add_chip_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that let a chip decide which channels are removed to `parser`."""
    least = "With --target-sparsity as well, at least that share of the channels is removed."
    add_group(parser, "pruning for a chip", chip_flags().values(), least)


def prune_options(given: Mapping[str, Any]) -> PruneOptions:
    """Merge flags over the configuration file over the defaults.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
    """
    source = read(SourceArgs, given)
    schedule, notes = schedule_options(source.distiller_schedule, source.pruner)
    from_file = {} if source.config is None else read_config(source.config, file_flags())
    values = {**schedule, **from_file, **_one_model(given)}
    if folder_of(values.get("model_factory")) is not None:
        values.setdefault("thin", True)  # a folder of transformers holds a smaller model, no masks
    if source.print_config or source.print_schema:
        values.setdefault("model_factory", "")  # nothing is built
    parts: dict[str, Any] = {item.name: read(kind, values) for item, kind in parts_of(PruneOptions)}
    how = prune_config({key: values[key] for key in prune_flags() if key in values})
    return PruneOptions(prune=how, notes=notes, **parts)


def _one_model(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the flags with a model by position as ``--model-factory``, so that it wins over the configuration file."""
    if given.get("model") is None or "model_factory" in given:
        return given
    return {**{key: value for key, value in given.items() if key != "model"}, "model_factory": given["model"]}
