"""Thin by trying: a recipe is run on a copy, compared with the reference, and mended until it holds.

Which of several legal ways an axis may be divided, and whether a number written in Python follows the model, is known only
to the model's own code. So the recipe is tried: where the copy fails or computes something else, the op it happened at names
the channels to blame; they take their next way, and only when there is none left are they frozen, with the error as reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from torchthin.errors import BudgetError, ProofError, TargetMissedError
from torchthin.graph.clone import held, modules_of, saved_names
from torchthin.graph.size_uses import read_sizes
from torchthin.graph.trace import Traced
from torchthin.selection.selection import Select
from torchthin.thinning.build import tensors_of, thin_copy
from torchthin.thinning.constants import folded_tensors
from torchthin.thinning.derived_weights import rescaled_tensors
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.scale import tempered_tensors
from torchthin.thinning.search import Proposal, Search
from torchthin.thinning.trial import Diverged, Success, Trial

ROUNDS = 200
VARYING = 1e-5
"""Dead channels whose values differ by more than this share of their size are no constants."""


@dataclass(frozen=True)
class Plan:
    """A recipe that has run and agrees with the reference."""

    traced: Traced
    proposal: Proposal
    outcome: Success
    rounds: int

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the biases that constants asked for."""
        return self.outcome.recipe


def find_plan(traced: Traced, decide: Select, *, prove: bool = True) -> Plan:
    """Search for a recipe that runs and agrees.

    Args:
        traced: the full-size model, left as it is, and its record.
        decide: selection over the groups it is shown; called again whenever groups change.
        prove: compare with the reference; False checks only that the thinned model runs.

    Raises:
        ProofError: when no recipe was found within the allowed rounds.
    """
    with held(traced.model):
        return _found(traced, decide, prove)


def _found(traced: Traced, decide: Select, prove: bool) -> Plan:
    fake = not prove and traced.is_large
    search = _search(traced, decide, fake)
    warm = False
    for rounds in range(1, ROUNDS + 1):
        try:
            proposal = search.propose()
        except BudgetError as error:
            if rounds == 1:
                raise
            raise TargetMissedError(str(error)) from error  # trials have frozen what it would take
        if not proposal.recipe:
            return Plan(traced, proposal, Success(proposal.recipe, (), None, (), ()), rounds)
        trial = Trial(
            traced.model,
            traced.inputs,
            proposal.labels,
            proposal.kept,
            {**proposal.decision.masks, **proposal.decision.masked_biases},
            proposal.recipe,
            search.factors(),
            tuple(traced.derived.values()),
            warm,
            fake,
        )
        try:
            outcome = trial.run(prove=prove, doubtful=search.doubtful(proposal))
        except Diverged as error:
            if warm:
                raise ProofError(str(error)) from error
            # The record was made without arithmetic or with integers that are not plain, or what the first run cached, later
            # runs do not compute again: record once more. If ops still come and go, the data decide.
            warm = not traced.graph.fake
            traced = traced.with_numbers()
            search = _search(traced, decide)
            continue
        if isinstance(outcome, Success):
            return Plan(traced, proposal, outcome, rounds)
        search.learn(outcome, proposal)
    raise ProofError(
        f"No way to thin the model was found in {ROUNDS} attempts. Keep layers whole with keep=[...]."
    )


def _search(traced: Traced, decide: Select, fake: bool = False) -> Search:
    model, inputs, graph = traced.model, traced.inputs, traced.graph
    modules = dict(modules_of(model))
    return Search(model, graph, decide, modules, lambda: read_sizes(model, inputs, graph, fake=fake))


def folded_values(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Return the contents after thinning of every tensor that takes a constant or a factor, or keeps a computed weight as it was.

    Args:
        model: full-size model that the plan was made for.
        plan: its outcome says which constants go where.
    """
    folds, rescales, recipe = plan.outcome.folds, plan.outcome.rescales, plan.recipe
    tensors = tensors_of(model)
    changed = {fold.name for fold in folds} | {name for item in rescales for name in item.names}
    folded = folded_tensors(folds, recipe, tensors, plan.proposal.kept)
    tempered = tempered_tensors(rescales, recipe, tensors, folded)
    values = {name: tensor for name, tensor in tempered.items() if name in changed}
    derived = plan.traced.derived.values()
    if derived:
        for changes in rescaled_tensors(model, thin_copy(model, recipe), recipe, derived).values():
            values.update(changes)
    return values


def silenced_biases(plan: Plan) -> tuple[str, ...]:
    """Name the biases that are masked together with the filters of their channels."""
    return tuple(
        f"{name}: {int((~mask).sum())} values are masked together with their channels, because no layer can take over "
        "the constant that they would emit."
        for name, mask in plan.proposal.decision.masked_biases.items()
    )


def unsaved_tensors(model: nn.Module, plan: Plan) -> tuple[str, ...]:
    """Name the tensors that are cut and stand in no state dict."""
    saved = saved_names(model)
    names = [name for name in plan.recipe.keep if name not in saved]
    if not names:
        return ()
    listed = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
    return (
        f"No checkpoint holds {listed}: a new instance must make them when it is built, and loading cuts them.",
    )


def rescaled_layers(plan: Plan) -> tuple[str, ...]:
    """Name the layers whose weights took over a number that the model's code computes from a size."""
    return tuple(
        f"{item.weight.name}: {item.weight.rows.size} filters take a factor of {item.factor:.6g}, because the code computes a "
        f"number from a size that changed: {item.op.name} in {item.op.source}."
        for item in plan.outcome.rescales
    )


def inexact_layers(plan: Plan) -> tuple[str, ...]:
    """Name the layers where the thinned model cannot equal the masked one, with the cause."""
    statistics = [
        f"{op.source.module or op.name}: statistics run over fewer channels" for op in plan.outcome.left_out
    ]
    borders = [
        f"{constant.op.source.module or constant.op.name}: a constant of dead channels meets padding"
        for constant in plan.outcome.constants
        if constant.bordered
    ]
    rounded = [
        f"{fold.name}: the constant of dead channels is scaled and rounded with it"
        for fold in plan.outcome.folds
        if fold.carried
    ]
    varying = [
        f"{constant.op.source.module or constant.op.name}: dead channels are not constant, their mean stands for them"
        for constant in plan.outcome.constants
        if constant.spread > VARYING * max(float(constant.level), 1e-300)
    ]
    return tuple(dict.fromkeys(statistics + borders + rounded + varying))
