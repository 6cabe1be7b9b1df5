"""`Pruner`: masks that grow while the user trains. It holds the state; what it does are functions of this folder."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchthin.config import PruneConfig, Schedule, Target
from torchthin.errors import ConfigError, InputError, ProofError
from torchthin.graph.cost import measure
from torchthin.graph.inputs import Inputs, check_model, on_device_of
from torchthin.graph.sample import Sample, one_sample
from torchthin.importance.statistics import Loss
from torchthin.io.distributed import require_equal
from torchthin.pruning.gradual.prepared import prepare, unwrapped
from torchthin.pruning.gradual.progress import Macs, Progress, result_of
from torchthin.pruning.gradual.saved_state import progress_from, shapes_of, state_of
from torchthin.pruning.gradual.sharding import LocalMasks, is_sharded
from torchthin.pruning.in_place import Thinned, carry_out_, plan_thinning
from torchthin.pruning.result import PruneResult
from torchthin.report.prune_report import PruneReport
from torchthin.selection.masks import apply_masks_
from torchthin.thinning.apply import apply_
from torchthin.thinning.recipe_check import check_stored
from torchthin.thinning.search.constraints import Constraints


class Pruner:
    """Prunes a model while it is trained: call `step` where the sparsity is to grow, and train as usual in between.

    Dependency groups are found, and a recipe is tried, once; a step only scores and selects. Masks never shrink, and are
    enforced after every step of the optimizer. The model keeps its class and the keys of its state dict.

    Args:
        model: the model; inside DistributedDataParallel or ``torch.compile`` as well. For FSDP2 make the Pruner first,
            then shard, then `attach_` the optimizer.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments; targets of channels and `thin_`
            need them.
        target: what is reached at the end: a ratio of channels, `Ratio` or `Unstructured`.
        criterion, include, exclude, seed: as in `torchthin.prune`.
        exact, add_biases, proof: as in `torchthin.prune`; `thin_` keeps to them.
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
        exact: bool = False,
        add_biases: bool = False,
        proof: str = "quick",
        schedule: Schedule = Schedule(),  # noqa: B008  frozen
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        check_model(model, "Pruner")
        config = PruneConfig(target, criterion, include, exclude, seed, True, exact, add_biases, proof)  # type: ignore[arg-type]
        config = replace(config, schedule=schedule)
        self._wrapper, self._model = weakref.ref(model), unwrapped(model)
        if optimizer is not None:
            _refuse_foreign(optimizer, self._model)
        self._prepared = prepare(self._model, example_inputs, config, data, loss)
        self._progress = Progress(self._prepared.masks)
        self._masks = LocalMasks(self._progress.masks.masks(self._model))
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
        return dict(self._masks.masks)

    @property
    def sparsity(self) -> float:
        """Share of the channels (or weights) of the full-size model that are masked or removed."""
        return self._progress.masks.sparsity

    @property
    def steps_done(self) -> int:
        """How often `step` was called."""
        return self._progress.step

    @property
    def last_step(self) -> int:
        """The step with which the schedule ends."""
        return self._prepared.schedule.last

    @property
    def finished(self) -> bool:
        """Whether the schedule has ended; further steps change no mask."""
        return self.steps_done >= self.last_step

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
        step, masks, schedule = self.steps_done + 1, self._progress.masks, self._prepared.schedule
        asked = schedule.sparsity(step)
        if schedule.due(step):
            masks = masks.grow(self._model, self._prepared.config, asked)
        self._go_on_from(replace(self._progress, masks=masks, step=step))
        return asked

    def enforce_(self) -> None:
        """Set masked weights to zero. It happens by itself after every step of the attached optimizer."""
        self._masks.apply_(self._model)

    def _go_on_from(self, progress: Progress) -> None:
        if progress.masks is not self._progress.masks:
            self._masks = LocalMasks(progress.masks.masks(self._model))
        self._progress = progress
        self.enforce_()

    def apply_to_(self, copy: nn.Module) -> None:
        """Zero in a copy of the model (``AveragedModel``, a teacher) what is masked in the model.

        Raises:
            InputError: the copy has other sizes; it is as it was.
        """
        copy = unwrapped(copy)
        if shapes_of(copy) != shapes_of(self._model):
            raise InputError(
                "The copy must have the sizes of the pruned model. "
                "Give it to thin_ together with the model, or make a new copy of the model."
            )
        apply_masks_(copy, self.masks)

    def thin_(self, *copies: nn.Module) -> Thinned:
        """Remove from the model, in place, what is masked, with the optimizer's state; training and steps go on.

        Targets continue to mean shares of the full-size model. A DistributedDataParallel knows the old sizes: wrap
        `model` in a new one.

        Args:
            copies: models of the same sizes that are thinned alike (``AveragedModel``).

        Returns:
            recipe (from the model as it was), proof and sizes.

        Raises:
            InputError: the model is sharded, or a copy or the optimizer does not fit.
            TargetMissedError: nothing that is masked can be removed.
            ProofError: no way to thin held. In all cases everything is as it was.
        """
        inputs = _thinning_inputs(self._model, self._prepared.inputs)
        models = [self._model, *map(unwrapped, copies)]
        macs = self._progress.macs
        whole = macs is not None and not macs.per_sample
        sample = Sample(inputs, False) if whole else one_sample(self._model, inputs)
        before = measure(self._model, sample).macs if macs is None else macs.before
        how = Constraints.of(self._prepared.config)
        thinned = _thin_alike_(models, inputs, self.masks, how, self._optimizer)
        macs = Macs(before, measure(self._model, sample).macs, sample.is_single)
        masks = self._progress.masks.thinned(thinned.recipe)
        self._go_on_from(replace(self._progress, masks=masks, thinned=thinned, macs=macs))
        # A weak reference: an old wrapper lives, with its buckets and threads, no longer than the user wants.
        wrapper = self._wrapper()
        if isinstance(wrapper, DistributedDataParallel):
            wrapper.register_forward_pre_hook(_refuse_old_wrapper)
        return thinned

    def report(self) -> PruneReport:
        """Return what was asked so far and what it achieved, as `prune` reports it."""
        return self.result().report

    def result(self) -> PruneResult:
        """Return the model as it is now (not a copy) in the form `prune` returns; its ``save`` writes a checkpoint.

        Its masks are those of the full-size model, in which what was removed is masked.
        """
        self.enforce_()
        return result_of(self._model, self._prepared, self._progress)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on, as tensors and plain types (it loads with ``weights_only=True``).

        Model and optimizer have states of their own.
        """
        return state_of(self._model, self._prepared, self._progress)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Call this before the model and the optimizer load their states: where the saved model was thinned already, a
        full-size one is thinned first, and the optimizer gets the same new biases.

        Raises:
            InputError: the state is damaged, of another model, or of a run with other settings; nothing is changed.
        """
        progress, thin = progress_from(state, self._model, self._prepared)
        if thin:
            check_stored(progress.masks.recipe, self._model)
            apply_(self._model, progress.masks.recipe, self._optimizer)
        self._go_on_from(progress)


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


def _thinning_inputs(model: nn.Module, inputs: Inputs | None) -> Inputs:
    if inputs is None:
        raise ConfigError(
            "The thin_ of Pruner needs example_inputs: channels are followed through one run of the model. "
            "Give them when the Pruner is made."
        )
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise InputError(
            "A sharded model cannot be thinned. Save pruner.state_dict() and the full state of the model, load both "
            "into an unsharded model and its Pruner, and thin that."
        )
    return on_device_of(model, inputs)


def _thin_alike_(
    models: list[nn.Module],
    inputs: Inputs,
    masks: Mapping[str, Tensor],
    how: Constraints,
    optimizer: torch.optim.Optimizer | None,
) -> Thinned:
    """Thin the first model, with its optimizer, and its copies by the same recipe; return what the first became."""
    planned = [plan_thinning(model, inputs, masks, how) for model in models]
    recipe = planned[0].plan.recipe
    if any(each.plan.recipe.keep != recipe.keep for each in planned[1:]):
        raise ProofError(
            "A copy would be thinned in another way than the model. Make a new copy of the model."
        )
    require_equal("ways to thin the model", [recipe.to_dict()], next(models[0].parameters()).device)
    found = [carry_out_(each, optimizer if not n else None) for n, each in enumerate(planned)]
    return found[0]


def _refuse_old_wrapper(*_: object) -> NoReturn:
    raise InputError(
        "This DistributedDataParallel knows the sizes from before thin_. "
        "Make a new one: DistributedDataParallel(pruner.model)."
    )
