"""All that a distillation changes: with it, a run that was ended continues bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.errors import CheckpointError, one_line
from torchthin.io.checkpoints import read_state, write_state

_CURE = "Remove it to start again."
_KEYS = ("plan", "model", "optimizer", "schedule", "generator", "losses")


@dataclass
class TrainingState:
    """Model, optimizer, schedule and random numbers of a distillation, and the mean loss of every epoch so far."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    plan: Mapping[str, Any]
    """Options of the run: a state of other ones is refused."""
    losses: list[float] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the state to a file, complete or not at all."""
        schedule = self.schedule.state_dict()
        content = {
            "plan": dict(self.plan),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {k: v for k, v in schedule.items() if isinstance(v, int | float | list)},
            "generator": self.generator.get_state(),
            "losses": self.losses,
        }
        write_state(path, "state", content)

    def resume_(self, path: Path) -> None:
        """Put the saved state into model, optimizer, schedule and generator.

        Raises:
            CheckpointError: the file is of another run, or cannot be read.
        """
        content = read_state(path, "state", _KEYS, _CURE)
        try:
            if content["plan"] != self.plan:
                raise CheckpointError(
                    f"The state {path} is of another recovery: {content['plan']!r:.300}. {_CURE}"
                )
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(dict(content["optimizer"]))
            self.schedule.load_state_dict(dict(content["schedule"]))
            self.generator.set_state(content["generator"])
            self.losses = list(content["losses"])
        except CheckpointError:
            raise
        except Exception as error:  # what torch raises for a state of another model is of many kinds
            raise CheckpointError(
                f"The state {path} does not fit this model: {one_line(error)[:300]}. {_CURE}"
            ) from error
