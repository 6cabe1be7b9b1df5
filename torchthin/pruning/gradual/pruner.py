"""`Pruner`: masks that grow while the user trains. It holds the state; what it does are the functions of `gradual`."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchthin.config import PruneConfig, Schedule, Target
from torchthin.errors import ConfigError, InputError, ProofError
from torchthin.graph.cost import measure
from torchthin.graph.inputs import Inputs, as_inputs, on_device_of, own_example
from torchthin.graph.model import check_model
from torchthin.importance.statistics import Loss
from torchthin.io.distributed import require_equal
from torchthin.pruning.gradual.enforcement import Enforcement
from torchthin.pruning.gradual.mask_state import Growth
from torchthin.pruning.gradual.prepared import begin, unwrapped
from torchthin.pruning.gradual.progress_report import result_of
from torchthin.pruning.gradual.saved_state import (
    VERSION,
    check_entry,
    restored,
    shapes_of,
    thinned_entry,
    thinned_of,
)
from torchthin.pruning.gradual.sharding import is_sharded
from torchthin.pruning.gradual.sparsity_schedule import plan_steps
from torchthin.pruning.in_place import Thinned, carry_out_, plan_thinning
from torchthin.pruning.result import PruneResult
from torchthin.report.pruning import PruneReport
from torchthin.selection.masks import apply_masks_
from torchthin.thinning.apply import apply_


class Pruner:
    """Prunes a model while it is trained: call `step` where the sparsity shall grow, and train as ever in between.

    The channel graph is followed, and a recipe tried, once; a step only scores and selects. Masks never shrink, and are
    enforced after every step of the optimizer. The model keeps its class and the keys of its state dict.

    Args:
        model: the model; inside DistributedDataParallel or ``torch.compile`` as well. For FSDP2 make the Pruner first,
            then shard, then `attach_` the optimizer.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments; structured methods and `thin_`
            need them.
        target: what is reached at the end: a ratio of channels, `Ratio` or `Unstructured`.
        criterion, include, exclude, seed: as in `torchthin.prune`.
        data: inputs without labels, as `torchthin.prune` takes them, for the criterion taylor: at each growth
            the gradients of the model as it is then are taken on them. Every rank takes its own, rank 0 decides.
        loss: a function of the model that yields a loss per batch of the user's own data, in place of `data`.
        schedule: when masks grow; by default 10 steps of AGP.
        optimizer: trains the model. Masks are enforced after each of its steps, and `thin_` cuts its state.

    Raises:
        InputError: something given cannot be used. `ConfigError`: a value is out of range. Nothing was changed.
        ProofError: no way to thin the model was found.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> pruner = Pruner(net, torch.randn(1, 3, 8, 8), 0.5, schedule=Schedule(steps=2))
    >>> [(pruner.step(), pruner.sparsity) for epoch in range(3)]
    [(0.4375, 0.375), (0.5, 0.5), (0.5, 0.5)]
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any = None,
        target: Target | float = 0.5,
        *,
        criterion: str | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        data: Any = None,
        loss: Loss | None = None,
        seed: int = 0,
        schedule: Schedule | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        check_model(model, "Pruner")
        schedule = Schedule() if schedule is None else schedule
        config = PruneConfig(
            target,  # type: ignore[arg-type]
            criterion,
            include,  # type: ignore[arg-type]
            exclude,  # type: ignore[arg-type]
            seed,
            schedule=schedule,
        )
        self._wrapper, self._model = weakref.ref(model), unwrapped(model)
        self._when = plan_steps(schedule, config.target.share)
        planned = self._when.planned
        self._config = config.at(planned[-1])
        if optimizer is not None:
            _refuse_foreign(optimizer, self._model)
        example = own_example(self._model) if example_inputs is None else example_inputs
        self._inputs = None if example is None else on_device_of(self._model, as_inputs(example))
        self._beginning = begin(self._model, self._config, self._inputs, data, loss)
        self._growth: Growth = self._beginning.growth
        self._enforced = Enforcement(self._growth.masks(self._model))
        self._step = 0
        self._thinned: Thinned | None = None
        self._macs: list[int] | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._hook: Any = None
        if optimizer is not None:
            self.attach_(optimizer)

    @property
    def model(self) -> nn.Module:
        """The user's own model, without what wraps it."""
        return self._model

    @property
    def masks(self) -> dict[str, Tensor]:
        """Masks of the model as it is now: weight name -> bool tensor of its shape, True = keep."""
        return dict(self._enforced.masks)

    @property
    def sparsity(self) -> float:
        """Share of the channels (structured) or weights of the full-size model that are masked or removed."""
        return self._growth.sparsity

    @property
    def steps_done(self) -> int:
        """How often `step` was called."""
        return self._step

    @property
    def last_step(self) -> int:
        """The step with which the schedule ends."""
        return self._when.last

    @property
    def finished(self) -> bool:
        """Whether the schedule has ended; further steps change no mask."""
        return self._step >= self._when.last

    def attach_(self, optimizer: torch.optim.Optimizer) -> None:
        """Enforce masks after every step of `optimizer`, in place of the one attached before.

        Raises:
            InputError: it trains no parameter of the model.
        """
        optimizer = _innermost(optimizer)
        _refuse_foreign(optimizer, self._model)
        if self._hook is not None:
            self._hook.remove()
        self._optimizer = optimizer
        self._hook = optimizer.register_step_post_hook(lambda *_: self.enforce_())

    def step(self) -> float:
        """Let the sparsity grow if the schedule says so now, and mask the model; return what the schedule asks for.

        With several processes every one of them calls this; rank 0 decides.

        Raises:
            InputError: weights that are not finite; nothing is changed then.
        """
        step = self._step + 1
        asked = self._when.sparsity(step)
        if self._when.due(step):
            growth = self._growth.grown(self._model, self._config, asked)
            self._growth, self._enforced = growth, Enforcement(growth.masks(self._model))
        self._step = step
        self.enforce_()
        return asked

    def enforce_(self) -> None:
        """Set masked weights to zero. It happens by itself after every step of the attached optimizer."""
        self._enforced.on_(self._model)

    def apply_to_(self, copy: nn.Module) -> None:
        """Zero in a copy of the model (``AveragedModel``, a teacher) what is masked in the model.

        Raises:
            InputError: the copy has other sizes; it is as it was.
        """
        copy = unwrapped(copy)
        if shapes_of(copy) != shapes_of(self._model):
            raise InputError(
                "The copy must have the sizes of the pruned model. "
                "Give it to thin_ together with the model, or copy the model anew."
            )
        apply_masks_(copy, self.masks)

    def thin_(self, *copies: nn.Module) -> Thinned:
        """Remove from the model, in place, what is masked, with the optimizer's state; training and steps go on.

        Targets go on to mean shares of the full-size model. A DistributedDataParallel has to be made anew around
        `model`, since it knows the old sizes.

        Args:
            copies: models of the same sizes that are thinned alike (``AveragedModel``).

        Returns:
            recipe (from the model as it was), proof and sizes.

        Raises:
            InputError: the model is sharded, or a copy or the optimizer does not fit.
            TargetMissedError: nothing that is masked can be removed.
            ProofError: no way to thin held. In all cases everything is as it was.
        """
        inputs = self._thinning_inputs()
        masks, whole = self.masks, self._model
        masked, plan = plan_thinning(whole, inputs, masks)
        others = [unwrapped(copy) for copy in copies]
        plans = [plan_thinning(other, inputs, masks) for other in others]
        if any(other.recipe.keep != plan.recipe.keep for _, other in plans):
            raise ProofError("A copy would be thinned in another way than the model. Copy the model anew.")
        entry = plan.recipe.to_dict()
        require_equal("ways to thin the model", [entry], next(whole.parameters()).device)
        macs = measure(whole, inputs).macs if self._macs is None else self._macs[0]
        thinned = carry_out_(whole, masked, plan, masks, self._optimizer)
        for other, (zeroed, its) in zip(others, plans, strict=True):
            carry_out_(other, zeroed, its, masks, None)
        self._macs, self._thinned = [macs, measure(whole, inputs).macs], thinned
        self._growth = self._growth.thinned(plan.recipe)
        self._enforced = Enforcement(self._growth.masks(whole))
        self.enforce_()
        # a weak reference: an old wrapper lives, with its buckets and threads, no longer than the user wants
        wrapper = self._wrapper()
        if isinstance(wrapper, DistributedDataParallel):
            wrapper.register_forward_pre_hook(_refuse_old_wrapper)
        return thinned

    def _thinning_inputs(self) -> Inputs:
        if self._inputs is None:
            raise ConfigError(
                "The thin_ of Pruner needs example_inputs: channels are followed through one run of the model. "
                "Give them when the Pruner is made."
            )
        if any(is_sharded(parameter) for parameter in self._model.parameters()):
            raise InputError(
                "A sharded model cannot be thinned. Save pruner.state_dict() and the full state of the model, load both "
                "beside an unsharded model, and thin that."
            )
        return on_device_of(self._model, self._inputs)

    def report(self) -> PruneReport:
        """Return what was asked so far and what it achieved, as `prune` reports it."""
        return self.result().report

    def result(self) -> PruneResult:
        """Return the model as it is now (not a copy) in the form `prune` returns; its ``save`` writes a checkpoint.

        Its masks are those of the full-size model, in which what was removed is masked.
        """
        self.enforce_()
        return result_of(
            self._model,
            self._growth,
            self._beginning,
            self._config,
            self._when,
            self._step,
            self._thinned,
            self._macs,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on, as tensors and plain types (it loads with ``weights_only=True``).

        Model and optimizer have states of their own.
        """
        return {
            "version": VERSION,
            "step": self._step,
            "config": self._config.to_dict(),
            "when": asdict(self._when),
            "shapes": shapes_of(self._model),
            "growth": self._growth.to_dict(),
            "thinned": thinned_entry(self._thinned),
            "macs": self._macs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Call this before the model and the optimizer load their states: where the saved model was thinned already, a
        full-size one is thinned first, and the optimizer gets the same new biases.

        Raises:
            InputError: the state is damaged, of another model, or of a run with other settings; nothing is changed.
        """
        check_entry(state, self._config, self._when)
        growth, thin = restored(self._beginning.growth, self._model, state)
        thinned = thinned_of(state["thinned"], growth.recipe)
        if thin and growth.recipe is not None:
            apply_(self._model, growth.recipe, self._optimizer)
        self._growth, self._step, self._macs, self._thinned = growth, state["step"], state["macs"], thinned
        self._enforced = Enforcement(growth.masks(self._model))
        self.enforce_()


def _innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return torch's optimizer inside those that Lightning and accelerate make of it."""
    inner = getattr(optimizer, "optimizer", None)
    return _innermost(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


def _refuse_foreign(optimizer: Any, model: nn.Module) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"The optimizer of Pruner must be a torch.optim.Optimizer. Got {type(optimizer).__name__}."
        )
    trained = {id(p) for group in _innermost(optimizer).param_groups for p in group["params"]}
    if not any(id(parameter) in trained for parameter in model.parameters()):
        raise InputError(
            f"The optimizer ({type(optimizer).__name__}) trains no parameter of the model. "
            "Give the model's own optimizer, made after the model was moved or sharded."
        )


def _refuse_old_wrapper(*_: object) -> NoReturn:
    raise InputError(
        "This DistributedDataParallel knows the sizes from before thin_. "
        "Make a new one: DistributedDataParallel(pruner.model)."
    )
