"""Prune while the user's own function trains the model: ``torchthin prune --train module:function``.

After every step of the schedule, all that the run needs to continue is written to ``<save-to>.state``, complete or not at all.
The file is there after an exception and after the process was killed; ``--resume`` reads it.
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

from torchthin.cli.console import Console
from torchthin.cli.flags_from_fields import values_of
from torchthin.cli.prune_options import PruneOptions
from torchthin.config import Ratio, Unstructured
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
"""Options that a run which continues must share with the run that began."""
_ENTRIES = ("settings", "pruner", "model", "optimizer", "random")


def state_path(options: PruneOptions) -> Path:
    """Return where the state of an unfinished run is kept."""
    return Path(f"{options.files.save_to}.state")


def check_training(options: PruneOptions) -> None:
    """Raise ConfigError for training flags that do not go together, before anything is read or built."""
    training = options.training
    if training.train is None:
        for name, value in (("optimizer", training.optimizer), ("resume", training.resume)):
            if value:
                raise ConfigError(f"--{name} goes with --train. Give --train module:function as well.")
        return
    if options.files.save_to is None:
        raise ConfigError(
            "--train needs --save-to FILE: the state of the run is kept beside it, in FILE.state."
        )
    if not isinstance(options.prune.target, Ratio | Unstructured):
        raise ConfigError(
            "--train needs a target whose masks can grow: a share of channels or of single weights. "
            "Leave out budgets, --chip, --compat, --backend and nm-unstructured."
        )
    path = state_path(options)
    if training.resume and not path.exists():
        raise ConfigError(f"No saved state at {path}; start without --resume.")
    if not training.resume and path.exists():
        raise ConfigError(
            f"An earlier run left its state in {path}. Continue it with --resume, or remove that file to start over."
        )


def prune_in_training(
    model: nn.Module,
    inputs: tuple[Tensor, ...] | None,
    options: PruneOptions,
    console: Console,
    data: Calibration | None = None,
) -> PruneResult:
    """Prune step by step, with the user's training after each. data: for criteria that need any.

    Raises:
        TrainingError: the training function raised; the state before its last call is saved.
        InputError: something given cannot be used.
    """
    training, how = options.training, options.prune
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(named_function(str(training.train), "training function"))
        optimizer = None
        if training.optimizer is not None:
            make = stack.enter_context(named_function(training.optimizer, "optimizer factory"))
            optimizer = _made(make, model, training.optimizer)
        pruner = Pruner(
            model,
            inputs,
            how.target,
            criterion=how.criterion,
            include=how.include,
            exclude=how.exclude,
            data=data,
            seed=how.seed,
            exact=how.exact,
            add_biases=how.add_biases,
            proof=how.proof,
            schedule=how.schedule,
        )
        run = _Run(options, console, pruner, optimizer)
        run.begin()
        stack.enter_context(_masks_enforced(pruner))
        while not pruner.finished:
            run.one_step(train)
    if how.thin:
        with contextlib.suppress(TargetMissedError):  # the report then says that nothing was removed
            pruner.thin_()
    return replace(pruner.result(), config=how)


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
def _masks_enforced(pruner: Pruner) -> Iterator[None]:
    """Enforce masks after every step of any optimizer that the user's function makes."""
    hook = register_optimizer_step_post_hook(lambda *_: pruner.enforce_())
    try:
        yield
    finally:
        hook.remove()


class _Run:
    """One run: its steps, and its state on disk."""

    def __init__(
        self, options: PruneOptions, console: Console, pruner: Pruner, optimizer: torch.optim.Optimizer | None
    ) -> None:
        self._resume, self._console, self._path = options.training.resume, console, state_path(options)
        self._settings = {key: value for key, value in values_of(options).items() if key in _FIXED}
        self._pruner, self._optimizer = pruner, optimizer

    def begin(self) -> None:
        """Load the saved state, or seed all generators and save the state before the first step."""
        if self._resume:
            self._load()
            self._console.say(f"Continuing after step {self._pruner.steps_done} of {self._pruner.last_step}.")
        else:
            seed_all_(SEED)
            self._save()

    def one_step(self, train: Callable[..., Any]) -> None:
        """Let the sparsity grow, let the user's function train, save the state."""
        self._pruner.step()
        step, last = self._pruner.steps_done, self._pruner.last_step
        more = () if self._optimizer is None else (self._optimizer,)
        name = f"The training function {self._settings['train']}"
        where = f"at step {step} of {last}"
        saved = f"The state after step {step - 1} is in {self._path}; continue from it with --resume."
        try:
            train(self._pruner.model, step, *more)
        except (Exception, SystemExit) as error:
            raise TrainingError(f"{name} raised {one_line(error)} {where}. {saved}") from error
        self._pruner.enforce_()
        diverged = self._diverged()
        if diverged is not None:
            raise TrainingError(
                f"{name} left NaN or infinite numbers in {diverged} {where}. Try a lower learning rate. {saved}"
            )
        self._save()
        self._console.say(f"Step {step} of {last}: {100 * self._pruner.sparsity:.2f} % pruned and trained.")

    def _diverged(self) -> str | None:
        """Return the first parameter with a value that is not finite: no step can follow, and none is saved."""
        parameters = self._pruner.model.named_parameters()
        return next((name for name, value in parameters if not bool(value.detach().isfinite().all())), None)

    def _save(self) -> None:
        optimizer = None if self._optimizer is None else self._optimizer.state_dict()
        state = {
            "settings": self._settings,
            "pruner": self._pruner.state_dict(),
            "model": dict(self._pruner.model.state_dict()),
            "optimizer": optimizer,
            "random": random_states(),
        }
        write_state(self._path, "state", state)

    def _load(self) -> None:
        path = self._path
        state = read_state(path, "state", _ENTRIES, "Remove it to start over.")
        for name, value in self._settings.items():
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
                f"The state {path} does not fit this model: {one_line(error)}. Remove it to start over."
            ) from error
