"""Thin by trying: a recipe is run on a copy, compared with the reference, and mended until it holds.

Which of several legal ways an axis may be divided, and whether a number written in Python follows the model, is known only
to the model's own code. So the recipe is tried: where the copy fails or computes something else, the op it happened at names
the channels to blame; they take their next way, and only when there is none left are they frozen, with the error as reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from torchthin.errors import ProofError
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.search import Decide, Proposal, Search
from torchthin.thinning.trial import Failure, Success, Trial
from torchthin.trace.clone import clone, share
from torchthin.trace.inputs import Inputs
from torchthin.trace.opgraph import OpGraph
from torchthin.trace.recorder import record

ROUNDS = 200


@dataclass(frozen=True)
class Plan:
    """A recipe that has run and agrees with the reference."""

    proposal: Proposal
    outcome: Success
    rounds: int

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the biases that constants asked for."""
        return self.outcome.recipe


def trace(model: nn.Module, inputs: Inputs) -> OpGraph:
    """Record what `model` computes on `inputs`, on a copy that shares its weights."""
    return record(clone(model, share), inputs).live()


def find_plan(
    model: nn.Module, inputs: Inputs, decide: Decide, *, prove: bool = True, graph: OpGraph | None = None
) -> Plan:
    """Search for a recipe that runs and agrees.

    Args:
        model: full-size model, left as it is.
        inputs: example inputs on the model's device.
        decide: selection over the groups it is shown; called again whenever groups change.
        prove: compare with the reference; False checks only that the thinned model runs.
        graph: the model's record, if there is one already.

    Raises:
        ProofError: when no recipe was found within the allowed rounds.
    """
    search = Search(model, graph or trace(model, inputs), decide, dict(model.named_modules()))
    for rounds in range(1, ROUNDS + 1):
        proposal = search.propose()
        if not proposal.recipe:
            return Plan(proposal, Success(proposal.recipe, (), None, (), ()), rounds)
        trial = Trial(model, inputs, proposal.labels, proposal.kept, proposal.decision.masks, proposal.recipe)
        outcome = trial.run(prove=prove, doubtful=search.doubtful(proposal))
        if isinstance(outcome, Success):
            return Plan(proposal, outcome, rounds)
        search.learn(outcome, proposal)
    raise ProofError(f"No way to thin the model was found in {ROUNDS} attempts. Keep layers whole with keep=[...].")
