"""One trial of a proposal: does the thinned copy run, and does it compute what the reference computes?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import Tensor, nn

from torchthin.graph.clone import saved_names
from torchthin.graph.deferred import Deferred
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.opgraph import BRANCH
from torchthin.graph.trace import Traced, collection_paused
from torchthin.thinning.apply import borrowed, thin_copy
from torchthin.thinning.moving_states import moving_states
from torchthin.thinning.proof.models import Models
from torchthin.thinning.proof.prove import proved
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.scale import find_scalings
from torchthin.thinning.search.constraints import Proposal
from torchthin.thinning.search.outcome import Failure, Success
from torchthin.thinning.search.trial_run import FixedAxis, TrialMode


@collection_paused()
def attempt(proposal: Proposal, *, varying: bool) -> Failure | Success:
    """Try the recipe of a proposal on copies of the model.

    Args:
        proposal: what is tried; its model is left as it is.
        varying: how many ops the model runs depends on the data (boxes found), and is no reason to give up.

    Raises:
        Diverged: the model does not run again as it was recorded.
    """
    traced, recipe, graph = proposal.traced, proposal.recipe, proposal.traced.graph
    fake = graph.fake and proposal.sizes is not None and proposal.sizes.complete
    starts = (0, BRANCH) if graph.branched else (0,)
    mode, *branch = (TrialMode(proposal.survivors, start, fake=fake) for start in starts)
    failure = _tried(traced, recipe, (mode, *branch), fake=fake)
    if failure is not None:
        return failure
    moving = moving_states(proposal)
    if moving is not None:
        return moving
    outcome = _compared(proposal, mode, varying)
    if isinstance(outcome, Failure):
        return _with_fixed(outcome, mode.fixed)
    return replace(outcome, macs=mode.flops // 2)


def _tried(traced: Traced, recipe: Recipe, modes: Iterable[TrialMode], *, fake: bool) -> Failure | None:
    deferred = Deferred()
    thinned = _thinned(traced, recipe, deferred, values=not fake)
    for mode in modes:
        mode.deferred = None if fake else deferred
        failure = _watched_failure(thinned, traced, mode)
        mode.deferred = None  # the mode outlives its run
        if failure is not None:
            return failure
    return None


def _thinned(traced: Traced, recipe: Recipe, deferred: Deferred, *, values: bool) -> nn.Module:
    """Return a copy in the precision of the record; not masked, since what a mask zeroes is gone."""
    precision = traced.graph.precision

    def make(name: str, tensor: Tensor, cut_it: Callable[[], Tensor]) -> Tensor:
        dtype = precision.of(tensor.dtype)
        if dtype == tensor.dtype:
            return borrowed(name, tensor, cut_it)
        if not deferred.takes(tensor):
            return cut_it().to(dtype)
        shape = recipe.shape_after(name) if name in recipe.keep else tuple(tensor.shape)
        like, memory = tensor.new_empty(0, dtype=dtype), deferred.memory
        return deferred.placeholder(shape, like, lambda: memory.converted(cut_it(), dtype))

    return thin_copy(traced.model, recipe, make, values=values)


def _compared(proposal: Proposal, mode: TrialMode, varying: bool) -> Failure | Success:
    traced = proposal.traced
    scalings = find_scalings(proposal.labels, proposal.factors, mode.factors, saved_names(traced.model))
    models = Models(proposal, scalings, varying)
    return proved(models)


def _with_fixed(failure: Failure, fixed: tuple[FixedAxis, ...]) -> Failure:
    """Blame the op that gave the first wrong size, which the failure follows from."""
    if not fixed or fixed[0][0] > failure.op:
        return failure
    return replace(failure, op=fixed[0][0], fixed=fixed)


def _watched_failure(model: nn.Module, traced: Traced, mode: TrialMode) -> Failure | None:
    with mode.calls:
        failure = _failure(model, traced, mode)
    if failure is None:
        return None
    return _with_fixed(failure, mode.fixed or mode.axes_of_failed_call())


def _failure(model: nn.Module, traced: Traced, mode: CountingMode) -> Failure | None:
    mode.precision = traced.graph.precision
    try:
        run(model, mode.precision.inputs(traced.inputs), mode)
    except Exception as error:  # whatever the user's code raises
        first = str(error).strip().splitlines()
        return Failure(mode.completed, f"{type(error).__name__}: {first[0] if first else ''}", raised=True)
    return None
