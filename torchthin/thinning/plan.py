"""Thin by trying: a recipe is run on a copy, compared with the reference, and mended until it holds.

Which of several legal ways an axis may be divided, and whether a number written in Python follows the model, is known only
to the model's own code. So the recipe is tried: where the copy fails or computes something else, the op it happened at names
the channels to blame; they take their next way, and only when there is none left are they frozen, with the error as reason.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from torch import Tensor, nn

from torchthin.errors import InputError, ProofError, one_line
from torchthin.graph.clone import clone, held, modules_of, saved_names, share, state_tensors
from torchthin.graph.collector import collection_paused
from torchthin.graph.inputs import Inputs
from torchthin.graph.opgraph import OpGraph, merged
from torchthin.graph.parametrized import computed_weights
from torchthin.graph.recorder import record
from torchthin.graph.size_uses import read_sizes
from torchthin.selection.decision import Decide
from torchthin.thinning.build import tensors_of, thin_copy
from torchthin.thinning.constants import folded_tensors
from torchthin.thinning.derived_weights import rescaled_tensors
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.scale import tempered_tensors
from torchthin.thinning.search import Proposal, Search
from torchthin.thinning.trial import Diverged, Success, Trial

ROUNDS = 200
LARGE = 2**20
"""Parameters of a model that is recorded without arithmetic."""
VARYING = 1e-5
"""Dead channels whose values differ by more than this share of their size are no constants."""


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


@collection_paused()
def trace(model: nn.Module, inputs: Inputs, *, numbers: bool = False, watch: bool = True) -> OpGraph:
    """Record what `model` computes on `inputs`, on a copy that shares its weights.

    Where the evaluation run leaves parameters unread, the training branch is recorded too: its auxiliary heads must go
    on to fit. A training branch that does not run on these inputs (it wants labels) is left out.

    Args:
        model: full-size model, left as it is.
        inputs: example inputs on the model's device.
        numbers: do all arithmetic. Else a large model runs without, unless its code asks for numbers.
        watch: see in the same run what the code does with integer attributes (`torchthin/graph/size_uses.py`).

    Raises:
        InputError: the model cannot be copied, or does not run on the inputs.
    """
    try:
        recorded = _recorded(model, inputs, numbers or not is_large(model), watch=watch)
    except (Exception, SystemExit) as error:  # of the user's code
        raise InputError(
            f"The model ({type(model).__name__}) does not run on the example_inputs: {one_line(error)}. "
            "Give inputs of the shapes and dtypes that its forward takes."
        ) from error
    graph = recorded.live()
    running = recorded.running(graph)
    if all(name in graph.state for name, tensor in state_tensors(model) if isinstance(tensor, nn.Parameter)):
        return running
    try:
        branch = _recorded(model, inputs, not graph.hollow, training=True).live()
    except Exception as error:  # whatever the user's code raises
        cause = " ".join(str(error).split())
        note = (
            f"The training branch does not run on the example inputs, what only it uses stays whole: {cause}"
        )
        return replace(running, note=f"{running.note} {note}".strip())
    if not set(branch.state) - set(graph.state):
        return running
    both = merged(running, branch)
    drawn = both.chance()
    if drawn is None:
        return both
    note = f"The training branch draws random numbers ({drawn.name} in {drawn.source}): it was tried, not compared."
    return replace(both, note=f"{both.note} {note}".strip())


def _recorded(
    model: nn.Module, inputs: Inputs, numbers: bool, *, training: bool = False, watch: bool = False
) -> OpGraph:
    """Record in the cheapest way that the model's code bears: it may want numbers, or integers that are plain."""
    for hollow, watched in ((not numbers, watch), (False, watch)):
        if hollow or watched:
            with contextlib.suppress(Exception):
                copy = clone(model, share)
                return record(copy, inputs, training=training, hollow=hollow, spent=True, watch=watched)
    return record(clone(model, share), inputs, training=training, spent=True)


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
    with held(model):
        return _found(model, inputs, decide, prove, graph or trace(model, inputs))


def _found(model: nn.Module, inputs: Inputs, decide: Decide, prove: bool, graph: OpGraph) -> Plan:
    computed = tuple(computed_weights(model).values())
    hollow = not prove and is_large(model)
    search = _search(model, inputs, decide, graph, hollow)
    warm = False
    for rounds in range(1, ROUNDS + 1):
        proposal = search.propose()
        if not proposal.recipe:
            return Plan(proposal, Success(proposal.recipe, (), None, (), ()), rounds)
        trial = Trial(
            model,
            inputs,
            proposal.labels,
            proposal.kept,
            {**proposal.decision.masks, **proposal.decision.silenced},
            proposal.recipe,
            search.factors(),
            computed,
            warm,
            hollow,
        )
        try:
            outcome = trial.run(prove=prove, doubtful=search.doubtful(proposal))
        except Diverged as error:
            if warm:
                raise ProofError(str(error)) from error
            # The record was made without arithmetic or with integers that are not plain, or what the first run cached, later
            # runs do not compute again: record once more. If ops still come and go, the data decide.
            warm = not graph.hollow
            graph = trace(model, inputs, numbers=True, watch=False)
            search = _search(model, inputs, decide, graph)
            continue
        if isinstance(outcome, Success):
            return Plan(proposal, outcome, rounds)
        search.learn(outcome, proposal)
    raise ProofError(
        f"No way to thin the model was found in {ROUNDS} attempts. Keep layers whole with keep=[...]."
    )


def _search(model: nn.Module, inputs: Inputs, decide: Decide, graph: OpGraph, hollow: bool = False) -> Search:
    modules = dict(modules_of(model))
    return Search(model, graph, decide, modules, lambda: read_sizes(model, inputs, graph, hollow=hollow))


def is_large(model: nn.Module) -> bool:
    """Whether arithmetic is a large part of a run, so that leaving it out pays."""
    return sum(tensor.numel() for _, tensor in state_tensors(model)) >= LARGE


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
    computed = computed_weights(model)
    if computed:
        for changes in rescaled_tensors(model, thin_copy(model, recipe), recipe, computed.values()).values():
            values.update(changes)
    return values


def silenced_biases(plan: Plan) -> tuple[str, ...]:
    """Name the biases that are masked together with the filters of their channels."""
    return tuple(
        f"{name}: {int((~mask).sum())} values are masked together with their channels, because no layer can take over "
        "the constant that they would emit."
        for name, mask in plan.proposal.decision.silenced.items()
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
