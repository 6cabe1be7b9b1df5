"""Prune while the user's own function trains the model: ``torchthin prune --train module:function``.

After every step of the schedule, all that the run needs to go on is written to ``<save-to>.state``, whole or not at all. It is
there after an exception and after the process was killed; ``--resume`` reads it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchthin.cli.options import PruneOptions
from torchthin.cli.outcome import Voice
from torchthin.errors import (
    CheckpointError,
    ConfigError,
    FactoryError,
    TargetMissedError,
    TorchthinError,
    TrainingError,
    one_line,
)
from torchthin.io.calibration import Calibration
from torchthin.io.checkpoints import read_state, write_state
from torchthin.io.factory import named_function
from torchthin.pruning.gradual.pruner import Pruner
from torchthin.pruning.gradual.saved_state import random_states, seed_all_, set_random_states_
from torchthin.pruning.result import PruneResult

SEED = 0
_FIXED = ("model_factory", "factory_args", "checkpoint", "train", "optimizer", "data")
"""Options that a run which goes on must share with the one that began."""
_KEPT = ("settings", "pruner", "model", "optimizer", "random")


def state_path(options: PruneOptions) -> Path:
    """Return where the state of an unfinished run lies."""
    return Path(f"{options.save_to}.state")


def check_training(options: PruneOptions) -> None:
    """Raise ConfigError for training flags that do not go together, before anything is read or built."""
    if options.train is None:
        for name in ("optimizer", "resume"):
            if getattr(options, name):
                raise ConfigError(f"--{name} goes with --train. Give --train module:function as well.")
        return
    if options.save_to is None:
        raise ConfigError(
            "--train needs --save-to FILE: the state of the run is kept beside it, in FILE.state."
        )
    path = state_path(options)
    if options.resume and not path.exists():
        raise ConfigError(f"There is no state to go on from at {path}. Leave --resume out to begin.")
    if not options.resume and path.exists():
        raise ConfigError(
            f"An earlier run has left its state in {path}. Go on with --resume, or remove that file to begin anew."
        )


def prune_in_training(
    model: nn.Module,
    inputs: tuple[Tensor, ...] | None,
    options: PruneOptions,
    voice: Voice,
    data: Calibration | None = None,
) -> PruneResult:
    """Prune step by step, with the user's training after each. data: for criteria that need any.

    Raises:
        TrainingError: the training function raised; the state before its last call is saved.
        InputError: something given cannot be used.
    """
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(named_function(str(options.train), "training function"))
        optimizer = None
        if options.optimizer is not None:
            make = stack.enter_context(named_function(options.optimizer, "optimizer factory"))
            optimizer = _made(make, model, options.optimizer)
        how = options.prune
        pruner = Pruner(
            model,
            inputs,
            how.target,
            criterion=how.criterion,
            include=how.include,
            exclude=how.exclude,
            data=data,
            seed=how.seed,
            schedule=how.schedule,
        )
        run = _Run(options, voice, pruner, optimizer)
        run.begin()
        stack.enter_context(_held(pruner))
        while not pruner.finished:
            run.one_step(train)
    if options.prune.thin:
        with contextlib.suppress(TargetMissedError):  # the report then says that nothing was removed
            pruner.thin_()
    result = pruner.result()
    return replace(result, config=options.prune)


def _made(make: Callable[..., Any], model: nn.Module, name: str) -> torch.optim.Optimizer:
    try:
        optimizer = make(model)
    except Exception as error:
        raise FactoryError(
            f"The optimizer factory {name} raised {one_line(error)}. It is called with the model."
        ) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise FactoryError(
            f"The optimizer factory {name} must return a torch.optim.Optimizer. "
            f"It returned {type(optimizer).__name__}."
        )
    return optimizer


@contextlib.contextmanager
def _held(pruner: Pruner) -> Iterator[None]:
    """Enforce masks after every step of whatever optimizer the user's function makes."""
    hook = register_optimizer_step_post_hook(lambda *_: pruner.enforce_())
    try:
        yield
    finally:
        hook.remove()


class _Run:
    """One run: its steps, and its state on disk."""

    def __init__(
        self, options: PruneOptions, voice: Voice, pruner: Pruner, optimizer: torch.optim.Optimizer | None
    ) -> None:
        self._options, self._voice = options, voice
        self._pruner, self._optimizer = pruner, optimizer

    def begin(self) -> None:
        """Take up the saved state, or seed all generators and save the state before the first step."""
        if self._options.resume:
            self._load()
            self._voice.say(f"Going on after step {self._pruner.steps_done} of {self._steps}.")
        else:
            seed_all_(SEED)
            self._save()

    def one_step(self, train: Callable[..., Any]) -> None:
        """Let the sparsity grow, let the user's function train, save the state."""
        self._pruner.step()
        step = self._pruner.steps_done
        given = (self._pruner.model, step, *([self._optimizer] if self._optimizer is not None else []))
        try:
            train(*given)
        except (Exception, SystemExit) as error:
            raise TrainingError(
                f"The training function {self._options.train} raised {one_line(error)} at step {step} of {self._steps}. "
                f"The state after step {step - 1} is in {state_path(self._options)}; go on from there with --resume."
            ) from error
        self._pruner.enforce_()
        self._refuse_diverged(step)
        self._save()
        self._voice.say(
            f"Step {step} of {self._steps}: {100 * self._pruner.sparsity:.2f} % pruned and trained."
        )

    def _refuse_diverged(self, step: int) -> None:
        """Raise TrainingError when training left a weight that is no number: no step can follow, none is saved."""
        for name, parameter in self._pruner.model.named_parameters():
            if not bool(parameter.detach().isfinite().all()):
                raise TrainingError(
                    f"The training function {self._options.train} left NaN or infinite numbers in {name} at step {step} of "
                    f"{self._steps}. Mend it, with a lower learning rate for example. The state after step {step - 1} is "
                    f"in {state_path(self._options)}; go on from there with --resume."
                )

    @property
    def _steps(self) -> int:
        return self._pruner.last_step

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self._options, name) for name in _FIXED}

    def _save(self) -> None:
        optimizer = None if self._optimizer is None else self._optimizer.state_dict()
        state = {
            "settings": self._settings(),
            "pruner": self._pruner.state_dict(),
            "model": dict(self._pruner.model.state_dict()),
            "optimizer": optimizer,
            "random": random_states(),
        }
        write_state(state_path(self._options), "state", state)

    def _load(self) -> None:
        path = state_path(self._options)
        state = read_state(path, "state", _KEPT, "Remove it to begin anew.")
        for name, value in self._settings().items():
            if state["settings"].get(name) != value:
                raise ConfigError(
                    f"The state {path} is of a run with another {name}: {state['settings'].get(name)!r}, "
                    f"here {value!r}. Give the flags of that run."
                )
        try:
            self._pruner.load_state_dict(state["pruner"])
            self._pruner.model.load_state_dict(state["model"])
            if self._optimizer is not None:
                self._optimizer.load_state_dict(state["optimizer"])
            set_random_states_(state["random"])
        except TorchthinError:
            raise
        except Exception as error:  # what torch raises for a state of another model is of many kinds
            raise CheckpointError(
                f"The state {path} does not fit this model: {one_line(error)}. Remove it to begin anew."
            ) from error
