"""Thinning by trial: a recipe is tried on copies of the model, and changed until it runs and computes the right thing.

Which of several legal ways an axis may be divided, and whether a number written in Python follows the model, is known only
to the model's own code. So the recipe is tried: where the copy fails or computes something else, the failure leads to a
constraint on the next proposal. An axis is frozen, with the error as the reason, when nothing else helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn

from torchthin.errors import BudgetError, KindError, ProofError, TargetMissedError
from torchthin.graph.clone import saved_names, state_tensors
from torchthin.graph.parametrized import layer_of
from torchthin.graph.trace import Traced, read_sizes
from torchthin.selection.masks import Masked
from torchthin.selection.selection import Select
from torchthin.thinning.apply import thin_copy
from torchthin.thinning.attributes import has_known_sizes
from torchthin.thinning.constants import absorbed_tensors
from torchthin.thinning.derived_weights import rescaled_tensors
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.rms_norms import scaled_weights
from torchthin.thinning.scale import ScaledTensors
from torchthin.thinning.search.constraints import Constraints, Proposal, propose
from torchthin.thinning.search.outcome import Diverged, Success
from torchthin.thinning.search.repair import repaired
from torchthin.thinning.search.trial import attempt
from torchthin.thinning.unread import unread_tensors

ROUNDS = 200


@dataclass(frozen=True)
class ThinningPlan:
    """A recipe that has run and, unless nothing was to be compared, agrees with the reference."""

    proposal: Proposal
    outcome: Success
    rounds: int

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the biases that are added to absorb constants."""
        return self.outcome.recipe


def find_plan(traced: Traced, select: Select, *, constraints: Constraints | None = None) -> ThinningPlan:
    """Search for a recipe that runs and agrees.

    Args:
        traced: the full-size model, left as it is, and its record.
        select: says which channels of the groups that it is shown are kept; called again whenever groups change.
        constraints: what every proposal must keep to from the start, and how much is compared.

    Raises:
        ProofError: when no recipe was found within the allowed rounds.
    """
    rounds, varying = iter(range(1, ROUNDS + 1)), False
    constraints = constraints or Constraints()
    while True:
        found = _plan(traced, select, varying, constraints, rounds)
        if isinstance(found, ThinningPlan):
            more = traced.with_training() if _changes_own_integers(found) else None
            if more is None:
                return found
            traced, constraints = more, found.proposal.constraints  # code may use them as numbers there
        elif varying:
            raise ProofError(str(found)) from found
        else:
            # The record was made without arithmetic or with integers that are not plain, or what the first run cached, later
            # runs do not compute again: record once more. If ops still come and go, the data decide.
            varying = not traced.graph.fake
            traced = traced.with_numbers()


def _changes_own_integers(plan: ThinningPlan) -> bool:
    """Whether integers change of modules whose type does not say that they are sizes."""
    modules = plan.proposal.traced.modules
    return any(not has_known_sizes(modules[path]) for path in plan.recipe.attributes)


def _plan(
    traced: Traced,
    select: Select,
    varying: bool,
    constraints: Constraints,
    rounds: Iterator[int],
) -> ThinningPlan | Diverged:
    sizes = cache(lambda: read_sizes(traced))
    for number in rounds:
        try:
            proposal = propose(traced, select, constraints, sizes)
        except (BudgetError, KindError) as error:
            if number == 1:
                raise
            raise TargetMissedError(str(error)) from error  # trials have frozen what it would take
        if not proposal.recipe:
            return ThinningPlan(proposal, Success(proposal.recipe), number)
        try:
            outcome = attempt(proposal, varying=varying)
        except Diverged as error:
            return error
        if isinstance(outcome, Success):
            return ThinningPlan(proposal, outcome, number)
        constraints = repaired(outcome, proposal)
    raise ProofError(
        f"No way to thin the model was found in {ROUNDS} attempts. Exclude layers with exclude=[...]."
    )


def changed_tensors(
    model: nn.Module, plan: ThinningPlan, masks: Mapping[str, Tensor] | None = None
) -> Mapping[str, Tensor]:
    """Return the values after thinning of every tensor that absorbs a constant, is scaled, or keeps a derived weight as it was.

    Args:
        model: full-size model that the plan was made for.
        plan: its outcome says which constants go where.
        masks: what of it is still to be masked.
    """
    outcome, recipe = plan.outcome, plan.recipe
    tensors = Masked(dict(state_tensors(model)), masks or {})
    values = absorbed_tensors(outcome.absorptions, recipe, tensors, plan.proposal.survivors)
    values |= scaled_weights(plan.proposal.rms_norms, recipe, tensors)
    changed: Mapping[str, Tensor] = ScaledTensors(outcome.scalings, recipe, tensors, values)
    derived = plan.proposal.traced.derived.values()
    if derived:
        for changes in rescaled_tensors(model, thin_copy(model, recipe), recipe, derived).values():
            changed = {**changed, **changes}
    return changed


def masked_makers(plan: ThinningPlan) -> tuple[str, ...]:
    """Name what is masked together with the filters of removed channels, because it makes them too or reads them."""
    return tuple(
        f"{name}: {int((~mask).sum())} values are masked too: they make or read channels that are removed."
        for name, mask in plan.proposal.selection.maker_masks.items()
    )


def unsaved_tensors(model: nn.Module, plan: ThinningPlan) -> tuple[str, ...]:
    """Name the tensors that are cut and are in no state dict."""
    saved = saved_names(model)
    names = [name for name in plan.recipe.keep if name not in saved]
    if not names:
        return ()
    listed = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
    return (
        f"No checkpoint holds {listed}: a new instance must make them when it is built, and loading cuts them.",
    )


def unread_note(plan: ThinningPlan) -> tuple[str, ...]:
    """Name the tensors that no run read and that are as long as something that was cut: other code may use both together."""
    names = unread_tensors(plan.proposal.traced, plan.recipe)
    if not names:
        return ()
    listed = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
    neighbours = {layer_of(name): name for name in reversed(list(plan.recipe.keep))}
    beside = [(name, neighbours[layer_of(name)]) for name in names if layer_of(name) in neighbours]
    more = "".join(
        f" {name} stays as long as it was beside {other}, which was cut." for name, other in beside[:2]
    )
    return (
        f"No operation of the run reads {listed}, so nothing of it is cut.{more} Where other code uses it together with layers "
        "that were cut (a method beside forward), exclude these.",
    )


def scaled_layers(plan: ThinningPlan) -> tuple[str, ...]:
    """Name the layers that were scaled because of a number that the model's code computes from a size."""
    return tuple(
        f"{item.weight.name}: {item.weight.rows.size} filters take a factor of {item.factor:.6g}, because the code computes a "
        f"number from a size that changed: {item.op.name} in {item.op.source}."
        for item in plan.outcome.scalings
    )


def notes_on(model: nn.Module, plan: ThinningPlan) -> tuple[str, ...]:
    """Say of a full-size model what thinning changes or leaves beside what masks show."""
    return (*scaled_layers(plan), *unsaved_tensors(model, plan), *unread_note(plan))
