"""The model that a command works on: built by its factory, with the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torchthin.io.checkpoints import Checkpoint, load_into, read_checkpoint
from torchthin.io.factory import build_model
from torchthin.pruning.checkpoint import shrink_to_, with_recipe

if TYPE_CHECKING:
    from torch import nn

    from torchthin.cli.outcome import Voice


class ModelSource(Protocol):
    """Options that name a model."""

    @property
    def model_factory(self) -> str:
        """Function that returns the model."""

    @property
    def factory_args(self) -> Mapping[str, Any] | None:
        """Keyword arguments of the factory."""

    @property
    def checkpoint(self) -> str | None:
        """File with its weights."""


def load_model(source: ModelSource, voice: Voice) -> tuple[nn.Module, Checkpoint | None]:
    """Read the checkpoint, build the model and fit the one into the other.

    Raises:
        InputError: the factory or the checkpoint cannot be used, or they do not fit.
    """
    checkpoint = None if source.checkpoint is None else read_checkpoint(source.checkpoint)
    model = build_model(source.model_factory, source.factory_args)
    if checkpoint is None:
        voice.say("No --checkpoint: the weights are as the model factory made them.")
    else:
        checkpoint = with_recipe(checkpoint, model)
        shrink_to_(model, checkpoint)
        load_into(model, checkpoint)
        voice.say_source(checkpoint)
    return model, checkpoint
