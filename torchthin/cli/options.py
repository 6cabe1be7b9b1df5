"""The options of pruning: flags and configuration file -> one frozen object."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchthin.cli.console import Parser
from torchthin.cli.targets import DEFAULT_METHOD, METHODS, prune_config, prune_keys
from torchthin.config import CHANNEL_CRITERIA, WEIGHT_CRITERIA, Budget, PruneConfig, Ratio, Schedule
from torchthin.errors import ConfigError, near_matches
from torchthin.max7800x.chips import list_chips

EXAMPLE = """\
example:
  %(prog)s --model-factory models/net.py:small --checkpoint best.pth --input-shape 1,3,128,128 \\
      --target-sparsity 0.5 --thin --save-to thin.pth
"""


def allocation_of(config: PruneConfig) -> str | None:
    """Return the file of measured losses, or auto, by which a budget is spread; None where it is not."""
    return config.target.allocation if isinstance(config.target, Budget) else None


@dataclass(frozen=True)
class PruneOptions:
    """All a prune run is told. `prune` is how to prune; the rest is where from, where to and what to say."""

    model_factory: str
    prune: PruneConfig
    factory_args: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    save_to: str | None = None
    training_to: str | None = None
    class_to: str | None = None
    synthesis_to: str | None = None
    synthesis_yaml: str | None = None
    synthesis_chip: str | None = None
    report: str | None = None
    plots: str | None = None
    sensitivity: str | None = None
    print_config: bool = False
    print_schema: bool = False
    arch: str | None = None
    dataset: str | None = None
    data: str | None = None
    data_limit: int = 256
    data_mean: tuple[float, ...] = (0.0,)
    data_std: tuple[float, ...] = (1.0,)
    recover: bool = True
    recover_epochs: int = 0
    recover_outputs: str = "values"
    input_shape: tuple[str, ...] = ()
    device: str = "cpu"
    json: bool = False
    quiet: bool = False
    list_weights: bool = False
    notes: tuple[str, ...] = ()
    """What of the configuration was left out."""
    train: str | None = None
    optimizer: str | None = None
    resume: bool = False


RUN_TYPES: dict[str, tuple[type[Any], str]] = {
    "model_factory": (str, "text"),
    "factory_args": (dict, "a mapping of argument names to values"),
    "checkpoint": (str, "a path"),
    "save_to": (str, "a path"),
    "training_to": (str, "a path"),
    "class_to": (str, "a path"),
    "synthesis_to": (str, "a path"),
    "synthesis_yaml": (str, "a path"),
    "synthesis_chip": (str, "text"),
    "report": (str, "a path that ends in .html"),
    "plots": (str, "a folder"),
    "sensitivity": (str, "a path"),
    "arch": (str, "text"),
    "dataset": (str, "text"),
    "data": (str, "a file, a folder or module:function"),
    "data_limit": (int, "a whole number"),
    "data_mean": (tuple, "a number, or one for each channel"),
    "data_std": (tuple, "a number, or one for each channel"),
    "recover": (bool, "true or false"),
    "recover_epochs": (int, "a whole number"),
    "recover_outputs": (str, "values or logits"),
    "input_shape": (tuple, "a shape such as 1,3,128,128, or a list of them"),
    "device": (str, "text"),
    "json": (bool, "true or false"),
    "quiet": (bool, "true or false"),
    "list_weights": (bool, "true or false"),
    "train": (str, "text"),
    "optimizer": (str, "text"),
    "resume": (bool, "true or false"),
}


def add_model_arguments(parser: Parser) -> None:
    """Add the flags that say which model, with which weights and inputs, to `parser`."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model-factory",
        metavar="MODULE:FUNCTION",
        help="function that returns the model: package.module:function or path/to/file.py:function",
    )
    model.add_argument(
        "--factory-args",
        metavar="JSON",
        type=json_object,
        help="""keyword arguments of the factory, such as '{"num_classes": 10}'""",
    )
    model.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="its weights: a torch checkpoint or .safetensors (without it: as the factory made them)",
    )
    model.add_argument(
        "--dataset", metavar="NAME", help="data set whose image size the model takes, such as cifar10"
    )
    model.add_argument(
        "--input-shape",
        metavar="N,C,H,W[:DTYPE]",
        nargs="+",
        action="extend",
        help="example input of the model, one for each argument of forward",
    )
    model.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cpu)")


def add_data_argument(parser: Parser, use: str, default: str) -> None:
    """Add the flag that names inputs without labels to `parser`; `use` and `default` complete its help."""
    parser.add_argument_group("data").add_argument(
        "--data",
        metavar="SOURCE",
        help=f"inputs without labels, for {use}: a .npy or .pt file, a folder of pictures, module:function, or noise "
        f"(default: {default})",
    )


def add_recovery_arguments(parser: Parser) -> None:
    """Add the flags that say how a thinned model is recovered from --data to `parser`."""
    recovery = parser.add_argument_group("recovery of a thinned model from --data")
    recovery.add_argument(
        "--data-limit",
        metavar="N",
        type=int,
        help="inputs of --data to take: the first, of a folder evenly spread over the names (default: 256)",
    )
    for name, use in (("mean", "subtracted from"), ("std", "by which to divide")):
        recovery.add_argument(
            f"--data-{name}",
            metavar="NUMBER",
            type=float,
            nargs="+",
            help=f"{name}, {use} pictures in 0..1: one number, or one for each channel (default: {int(name == 'std')})",
        )
    recovery.add_argument(
        "--no-recover",
        dest="recover",
        action="store_false",
        help="use --data for criteria only (default: --thin with --data refits the layers)",
    )
    recovery.add_argument(
        "--recover-epochs",
        metavar="N",
        type=int,
        help="epochs of learning from the full model's outputs, without labels (default: 0)",
    )
    recovery.add_argument(
        "--recover-outputs",
        metavar="KIND",
        help="values, or logits: outputs are scores of classes (default: values)",
    )


def add_prune_arguments(parser: Parser) -> None:
    """Add the flags of ``prune`` to `parser`."""
    add_model_arguments(parser)
    add_data_argument(parser, "criteria that look at data and for recovery", "none")
    add_recovery_arguments(parser)
    pruning = parser.add_argument_group("pruning")
    pruning.add_argument("--method", help=f"one of {', '.join(METHODS)} (default: {DEFAULT_METHOD})")
    pruning.add_argument(
        "--target-sparsity",
        metavar="SHARE",
        type=float,
        help=f"share of channels or weights to prune, in [0, 1) (default: {Ratio().ratio})",
    )
    pruning.add_argument(
        "--agp-steps",
        metavar="N",
        type=int,
        help=f"steps in which AGP reaches the target (default: {Schedule().steps})",
    )
    pruning.add_argument(
        "--weights",
        metavar="NAME",
        nargs="+",
        help="weights to prune (default: every convolution; unstructured: linear ones too)",
    )
    pruning.add_argument(
        "--keep", metavar="PATTERN", nargs="+", help="weights to leave whole, such as 'head*'"
    )
    pruning.add_argument(
        "--scope", help="group: the target holds in every group; global: over all (default: group)"
    )
    pruning.add_argument(
        "--criterion",
        metavar="NAME",
        help=f"what ranks channels: {', '.join(CHANNEL_CRITERIA)}; or single weights: {', '.join(WEIGHT_CRITERIA)} "
        "(default: the method's own)",
    )
    pruning.add_argument(
        "--seed", metavar="N", type=int, help="seed of random numbers that criteria draw (default: 0)"
    )
    pruning.add_argument(
        "--keep-at-least",
        metavar="SHARE",
        type=float,
        help="share of every group that stays with --scope global (default: 0.1, or half of what stays on average)",
    )
    pruning.add_argument(
        "--round-to",
        metavar="N",
        type=int,
        help="channels that stay are a multiple of N in every layer that is cut; less goes where that needs it (default: 1)",
    )
    pruning.add_argument(
        "--target-params",
        metavar="LIMIT",
        help="most parameters of the thinned model: 0.4x of what it has, or 250000 "
        "(with --target-sparsity as well, at least that share of the channels goes)",
    )
    pruning.add_argument(
        "--target-macs", metavar="LIMIT", help="most multiply-accumulates: 0.5x, or 40000000"
    )
    pruning.add_argument(
        "--allocation",
        metavar="FILE",
        help="spread a budget over the groups by a file of torchthin sensitivity, or auto: measure it first (default: the "
        "same share of every group)",
    )
    pruning.add_argument(
        "--pattern",
        metavar="N:M",
        help="with nm-unstructured: n of every m weights side by side along the input dimension stay (default: 2:4)",
    )
    pruning.add_argument("--compat", metavar="TOOL", help="distiller: the masks Distiller makes, bit for bit")
    pruning.add_argument(
        "--backend", metavar="TOOL", help="distiller: the installed Distiller makes these masks itself"
    )
    pruning.add_argument(
        "--thin",
        action="store_true",
        help="remove what is masked, and check the smaller model against the masked one",
    )
    add_chip_targets(parser)
    add_training_arguments(parser)

    output = parser.add_argument_group("output")
    output.add_argument(
        "--arch", metavar="NAME", help="written into the saved file (default: the checkpoint's)"
    )
    output.add_argument(
        "--save-to",
        metavar="FILE",
        help="file to write: .safetensors or a torch checkpoint, by its name (without it: none)",
    )
    output.add_argument(
        "--training-to",
        metavar="FILE",
        help="checkpoint for ai8x-training's train.py: it shrinks the full-size class on loading (needs --arch)",
    )
    output.add_argument(
        "--class-to",
        metavar="FILE",
        help="Python file to write: the class at its new widths, for plain chains of layers (needs --thin)",
    )
    add_synthesis_arguments(output)
    output.add_argument(
        "--synthesis-chip", metavar="NAME", help="chip of these files (default: --chip, or MAX78000)"
    )
    output.add_argument(
        "--report",
        metavar="FILE.html",
        help="report as one page that needs no network, with its JSON beside it",
    )
    output.add_argument("--plots", metavar="FOLDER", help="the report's figures as PNG (extra plot)")
    output.add_argument(
        "--sensitivity",
        metavar="FILE",
        help="curves for the report: what torchthin sensitivity --save-to wrote (default: --allocation's)",
    )
    output.add_argument("--json", action="store_true", help="report as JSON on stdout, all else on stderr")
    output.add_argument("--quiet", action="store_true", help="print errors only")
    output.add_argument(
        "--list-weights", action="store_true", help="print the weights that would be pruned, and stop"
    )
    output.add_argument(
        "--config", metavar="FILE", help="YAML file with these options as keys; flags win over it"
    )
    output.add_argument(
        "--print-config", action="store_true", help="print all options as such a file, and stop"
    )
    output.add_argument(
        "--print-schema", action="store_true", help="print the JSON Schema of such files, and stop"
    )
    output.add_argument(
        "--distiller-schedule",
        metavar="FILE",
        help="YAML schedule of Distiller: its pruner instead of --method, --target-sparsity and --weights",
    )
    output.add_argument("--pruner", metavar="NAME", help="which pruner of that schedule, if it has several")
    output.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_training_arguments(parser: Parser) -> None:
    """Add the flags for training between the steps of the schedule to `parser`."""
    training = parser.add_argument_group("training between the --agp-steps")
    training.add_argument(
        "--train",
        metavar="MODULE:FUNCTION",
        help="function(model, step) that trains the model for a while; called after each step, masks are held",
    )
    training.add_argument(
        "--optimizer",
        metavar="MODULE:FUNCTION",
        help="function(model) that returns an optimizer; --train is then called with it as third argument",
    )
    training.add_argument(
        "--resume",
        action="store_true",
        help="go on from FILE.state, which a run that was ended left beside the FILE of --save-to",
    )


def add_synthesis_arguments(parser: argparse._ArgumentGroup | Parser) -> None:
    """Add the flags that say what is written for ai8x-synthesis to `parser`."""
    parser.add_argument(
        "--synthesis-to",
        metavar="FOLDER",
        help="folder for ai8x-synthesis: checkpoint with BatchNorm folded, network description, sample input",
    )
    parser.add_argument(
        "--synthesis-yaml",
        metavar="FILE",
        help="network description of yours: a corrected copy of it is written, with its comments",
    )


def add_chip_targets(parser: Parser) -> None:
    """Add the flags that let a chip decide which channels go to `parser`."""
    chip = parser.add_argument_group(
        "pruning for a chip", "With --target-sparsity as well, at least that share of the channels goes."
    )
    chip.add_argument("--chip", metavar="NAME", help=f"one of {', '.join(list_chips())}")
    chip.add_argument("--target-cycles", metavar="LIMIT", help="most cycles: 0.6x of what it was, or 450000")
    chip.add_argument(
        "--target-kernel-words", metavar="LIMIT", help="most words in the deepest processor: 0.6x, or 700"
    )
    chip.add_argument("--fit", action="store_true", help="the smallest cut found with which the network fits")


def prune_options(namespace: argparse.Namespace) -> PruneOptions:
    """Merge flags over the configuration file over the defaults.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
    """
    given = dict(vars(namespace))
    given.pop("debug", None)
    path = given.pop("config", None)
    schedule, notes = _read_distiller(given.pop("distiller_schedule", None), given.pop("pruner", None))
    prints = {name: given.pop(name) for name in ("print_config", "print_schema") if name in given}
    merged = {**schedule, **(_read_config(Path(path)) if path is not None else {}), **given}
    run = {key: _checked(key, merged[key]) for key in RUN_TYPES if key in merged}
    if prints:
        run.setdefault("model_factory", "")  # nothing is built
    if "model_factory" not in run:
        raise ConfigError(
            "A model factory is needed. Give --model-factory package.module:function or "
            "path/to/file.py:function."
        )
    how = {key: value for key, value in merged.items() if key not in RUN_TYPES}
    return PruneOptions(**run, prune=prune_config(how), notes=notes, **prints)


def _read_distiller(path: str | None, pruner: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    if path is not None:
        from torchthin.cli.schedule import schedule_options

        return schedule_options(path, pruner)
    if pruner is not None:
        raise ConfigError(
            "The --pruner is one of a schedule. Give the file with --distiller-schedule as well."
        )
    return {}, ()


def json_object(text: str) -> dict[str, Any]:
    """Return a JSON object; argparse reports what is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"""not JSON ({error}); write it as '{{"num_classes": 10}}'"""
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f"""must be a JSON object such as '{{"num_classes": 10}}', got {text}"""
        )
    return value


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read: {error.strerror}. Check --config."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The configuration file {path} must be YAML: {error}. Mend it or write JSON."
        ) from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(
            f"The configuration file {path} must map options to values, such as method: l1-structured."
        )
    options = {str(key).replace("-", "_"): value for key, value in content.items()}
    if {"pruners", "policies"} & set(options):
        raise ConfigError(
            f"The configuration file {path} is a schedule of Distiller. Give it as --distiller-schedule {path}."
        )
    known = [*RUN_TYPES, *prune_keys()]
    for key in options:
        if key not in known:
            raise ConfigError(
                f"The configuration file {path} has the unknown option {key!r}.{near_matches(key, known)} "
                "See --help."
            )
    return options


def _checked(key: str, value: Any) -> Any:
    kind, allowed = RUN_TYPES[key]
    if key == "input_shape" and isinstance(value, str | list):
        value = (value,) if isinstance(value, str) else tuple(value)
    if key in ("data_mean", "data_std"):
        value = (
            tuple(value) if isinstance(value, list) else (value,) if isinstance(value, int | float) else value
        )
        if isinstance(value, tuple) and all(isinstance(part, int | float) for part in value):
            return tuple(map(float, value))
    if not isinstance(value, kind) or (kind is tuple and not all(isinstance(part, str) for part in value)):
        raise ConfigError(f"The option {key} must be {allowed}. Got {value!r}.")
    return value
