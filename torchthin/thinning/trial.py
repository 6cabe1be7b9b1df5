"""One trial of a proposal: does the thinned copy run, and does it compute what the reference computes?"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from torch import nn

from torchthin.graph.clone import saved_names
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.opgraph import BRANCH
from torchthin.graph.trace import Traced, collection_paused
from torchthin.thinning.apply import borrowed, thin_copy
from torchthin.thinning.comparison import proved
from torchthin.thinning.constraints import Proposal
from torchthin.thinning.moving_states import moving_states
from torchthin.thinning.outcome import Failure, Success
from torchthin.thinning.proof_models import Models
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.scale import find_scalings
from torchthin.thinning.trial_run import FixedAxis, TrialMode


@collection_paused()
def attempt(proposal: Proposal, *, prove: bool, varying: bool) -> Failure | Success:
    """Try the recipe of a proposal on copies of the model.

    Args:
        proposal: what is tried; its model is left as it is.
        prove: compare outputs with the reference; False: check that the thinned model runs.
        varying: how many ops the model runs depends on the data (boxes found), and is no reason to give up.

    Raises:
        Diverged: the model does not run again as it was recorded.
    """
    traced, recipe, graph = proposal.traced, proposal.recipe, proposal.traced.graph
    if not prove and _runs(traced, recipe):
        return Success(recipe)
    fake = graph.fake and proposal.sizes is not None and proposal.sizes.complete
    thinned = thin_copy(
        traced.model, recipe, borrowed, values=not fake
    )  # not masked: what a mask zeroes is gone
    mode = TrialMode(proposal.survivors, 0, fake=fake)
    failure = _watched_failure(thinned, traced.inputs, mode)
    if failure is None and graph.branched:
        failure = _watched_failure(thinned, traced.inputs, TrialMode(proposal.survivors, BRANCH, fake=fake))
    if failure is not None:
        return failure
    if not prove:
        return Success(recipe)
    moving = moving_states(proposal)
    if moving is not None:
        return moving
    del thinned
    outcome = _compared(proposal, mode, varying)
    return _with_fixed(outcome, mode.fixed) if isinstance(outcome, Failure) else outcome


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


def _runs(traced: Traced, recipe: Recipe) -> bool:
    """Whether the thinned model runs, without arithmetic if it is large; if not, a run that counts its ops tells where."""
    starts = (0, BRANCH) if traced.graph.branched else (0,)
    if traced.is_large:
        modes = (CountingMode(start, traced.graph.call_sites[start], fake=True) for start in starts)
        copies = ((thin_copy(traced.model, recipe, borrowed, values=False), mode) for mode in modes)
        return all(_failure(copy, traced.inputs, mode, disposable=True) is None for copy, mode in copies)
    thinned = thin_copy(traced.model, recipe)
    with contextlib.suppress(Exception):
        for start in starts:
            with evaluation_mode(thinned, training_branch=start > 0, disposable=len(starts) == 1):
                call(thinned, traced.inputs)
        return True
    return False


def _watched_failure(model: nn.Module, inputs: Inputs, mode: TrialMode) -> Failure | None:
    with mode.calls:
        failure = _failure(model, inputs, mode)
    if failure is None:
        return None
    return _with_fixed(failure, mode.fixed or mode.axes_of_failed_call())


def _failure(
    model: nn.Module, inputs: Inputs, mode: CountingMode, *, disposable: bool = False
) -> Failure | None:
    try:
        run(model, inputs, mode, disposable=disposable)
    except Exception as error:  # whatever the user's code raises
        first = str(error).strip().splitlines()
        return Failure(mode.completed, f"{type(error).__name__}: {first[0] if first else ''}", raised=True)
    return None
