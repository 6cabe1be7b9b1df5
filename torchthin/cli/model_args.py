"""What commands about one finished model share: the model named by position or flag, and a run whose stdout may be JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torchthin.cli.console import Parser
from torchthin.cli.flags import InputOptions, given_flags, sized_inputs, talk_aside
from torchthin.cli.options import add_model_arguments
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from torchthin.cli.model import ModelSource


class Facts(Protocol):
    """What a command found: prints as text, or as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""


Found = TypeVar("Found", bound=Facts)


def add_subject_arguments(parser: Parser) -> None:
    """Add the model by position, and the flags that describe it, to `parser`."""
    parser.add_argument(
        "model",
        metavar="MODULE:FUNCTION",
        nargs="?",
        help="function that returns the model, as --model-factory",
    )
    add_model_arguments(parser)


def add_common_arguments(parser: Parser | argparse._ArgumentGroup) -> None:
    """Add ``--json`` and ``--debug`` to a parser or one of its groups."""
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout, all else on stderr")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def given_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return what was given, lists as tuples, the model under ``model_factory``.

    Raises:
        ConfigError: no model factory, or two.
    """
    given = given_flags(namespace)
    model = given.pop("model", None)
    if model is not None and "model_factory" in given:
        raise ConfigError(
            f"The model must be given once. Got {model} and --model-factory {given['model_factory']}."
        )
    if model is not None:
        given["model_factory"] = model
    if "model_factory" not in given:
        taken = [value for value in given.get("input_shape", ()) if not value[:1].isdigit() and ":" in value]
        if taken:
            raise ConfigError(
                f"The --input-shape took {taken[0]}, which is no shape. Put the model before the flags, or give it as "
                f"--model-factory {taken[0]}."
            )
        raise ConfigError("A model factory is needed: package.module:function or path/to/file.py:function.")
    return given


def needed_inputs(options: InputOptions) -> tuple[torch.Tensor, ...]:
    """Return the example inputs on the device that was named.

    Raises:
        ConfigError: none were given, or they make no sense.
    """
    return tuple(value.to(options.device) for value in sized_inputs(options))


def loaded(source: ModelSource, device: str) -> nn.Module:
    """Return the model with its weights, thinned where its checkpoint is, on `device`."""
    from torchthin.cli.inputs import placed, usable_device
    from torchthin.cli.model import load_model
    from torchthin.cli.outcome import Voice

    model, _ = load_model(source, Voice(quiet=source.checkpoint is None))
    return placed(model, usable_device(device))


def tell(work: Callable[[], Found], *, as_json: bool) -> Found:
    """Do the work and print what it found. As JSON, stdout gets nothing else."""
    with talk_aside(as_json):
        facts = work()
        if not as_json:
            print(facts)
    if as_json:
        print(json.dumps(facts.to_dict(), indent=2))
    return facts
