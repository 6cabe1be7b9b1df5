"""One trial of a proposal: does the thinned copy run, and does it compute what the reference computes?"""

from __future__ import annotations

import contextlib

from torch import nn

from torchthin.graph.clone import saved_names
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.opgraph import BRANCH
from torchthin.graph.size_uses import FactorMode
from torchthin.graph.trace import Traced
from torchthin.thinning.apply import thin_copy
from torchthin.thinning.comparison import Models, find_difference, proved
from torchthin.thinning.constraints import Proposal
from torchthin.thinning.divergence import run
from torchthin.thinning.outcome import Failure, Success
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.scale import find_scalings


def attempt(traced: Traced, proposal: Proposal, *, prove: bool, varying: bool) -> Failure | Success:
    """Try the recipe of a proposal on copies of the model.

    Args:
        traced: the full-size model, left as it is, and its record.
        proposal: what is tried.
        prove: compare outputs with the reference; False: check that the thinned model runs.
        varying: how many ops the model runs depends on the data (boxes found), and is no reason to give up.

    Raises:
        Diverged: the model does not run again as it was recorded.
    """
    recipe, graph = proposal.recipe, traced.graph
    if not prove and (_runs_fake(traced, recipe) if traced.is_large else _runs(traced, recipe)):
        return Success(recipe)
    thinned = thin_copy(traced.model, recipe)  # not masked: nothing is left of what a mask zeroes
    mode = FactorMode(graph.call_sites[0])
    failure = _failure(thinned, traced.inputs, mode)
    if failure is None and graph.branched:
        failure = _failure(thinned, traced.inputs, CountingMode(BRANCH, graph.call_sites[BRANCH]))
    if failure is not None:
        return failure
    if not prove:
        return Success(recipe)
    del thinned
    scalings = find_scalings(proposal.labels, proposal.factors, mode.factors, saved_names(traced.model))
    models = Models(traced, proposal, scalings, varying)
    if proposal.is_doubtful:  # cheaper than a failed proof
        different = find_difference(models)
        if different is not None:
            return different
    return proved(models)


def _runs(traced: Traced, recipe: Recipe) -> bool:
    """Whether the thinned model runs; if not, a run that counts its ops tells where."""
    thinned, branched = thin_copy(traced.model, recipe), traced.graph.branched
    with contextlib.suppress(Exception):
        for training in (False, True) if branched else (False,):
            with evaluation_mode(thinned, training_branch=training, disposable=not branched):
                call(thinned, traced.inputs)
        return True
    return False


def _runs_fake(traced: Traced, recipe: Recipe) -> bool:
    """Whether the thinned model runs without arithmetic; if not, a run with numbers tells why, if there is a reason."""
    graph = traced.graph
    modes = [CountingMode(0, graph.call_sites[0], fake=True)]
    if graph.branched:
        modes.append(CountingMode(BRANCH, graph.call_sites[BRANCH], fake=True))
    return all(
        _failure(thin_copy(traced.model, recipe, values=False), traced.inputs, mode, disposable=True) is None
        for mode in modes
    )


def _failure(
    model: nn.Module, inputs: Inputs, mode: CountingMode, *, disposable: bool = False
) -> Failure | None:
    try:
        run(model, inputs, mode, disposable=disposable)
    except Exception as error:  # whatever the user's code raises
        first = str(error).strip().splitlines()
        return Failure(mode.completed, f"{type(error).__name__}: {first[0] if first else ''}", raised=True)
    return None
