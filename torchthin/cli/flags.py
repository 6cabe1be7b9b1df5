"""What commands share between the parser and their work: flags as options, the inputs they need, a stdout for JSON alone."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from torchthin.errors import ConfigError

if TYPE_CHECKING:
    import torch


class InputOptions(Protocol):
    """Options that name a model's inputs."""

    @property
    def dataset(self) -> str | None:
        """Data set whose image size the model takes."""

    @property
    def input_shape(self) -> tuple[str, ...]:
        """Example inputs, one for each argument."""

    @property
    def device(self) -> str:
        """Where to run."""


def given_flags(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return what was given, lists as tuples; ``--debug`` is no option of a command."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in vars(namespace).items()
        if key != "debug"
    }


def flags_with_model(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return what was given to a command whose model is a flag.

    Raises:
        ConfigError: no model factory.
    """
    given = given_flags(namespace)
    if "model_factory" not in given:
        raise ConfigError(
            "A model factory is needed. Give --model-factory package.module:function or path/to/file.py:function."
        )
    return given


def sized_inputs(options: InputOptions) -> tuple[torch.Tensor, ...]:
    """Return the example inputs of a command that runs a model.

    Raises:
        ConfigError: none were given, or they or the device make no sense.
    """
    return _inputs(options, "An input size is needed. Give --input-shape 1,3,128,128 or --dataset.")


def followed_inputs(options: InputOptions) -> tuple[torch.Tensor, ...]:
    """Return the example inputs of a command that follows channels.

    Raises:
        ConfigError: none were given, or they or the device make no sense.
    """
    return _inputs(
        options,
        "Example inputs are needed: channels are followed through one run of the model. "
        "Give --input-shape 1,3,224,224 or --dataset.",
    )


def _inputs(options: InputOptions, missing: str) -> tuple[torch.Tensor, ...]:
    from torchthin.cli.inputs import example_inputs, usable_device

    usable_device(options.device)
    inputs = example_inputs(options.input_shape, options.dataset)
    if inputs is None:
        raise ConfigError(missing)
    return inputs


@contextlib.contextmanager
def talk_aside(as_json: bool) -> Iterator[None]:
    """Let nothing but a command's JSON reach stdout: within, all else goes to stderr (the user's model may print too)."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield
