"""A plan within budgets: what thinning adds (biases that carry constants) is measured, and kept free in the next attempt."""

from __future__ import annotations

from torchthin.errors import TargetMissedError
from torchthin.graph.cost import Cost, measure
from torchthin.graph.trace import Traced
from torchthin.report.pruning import BudgetFacts
from torchthin.selection.budget import ByBudget
from torchthin.thinning.apply import thin_copy
from torchthin.thinning.plan import ThinningPlan, find_plan

_ATTEMPTS = 4


def plan_within(traced: Traced, decide: ByBudget) -> tuple[ThinningPlan, Cost]:
    """Return a plan whose thinned model is within the budgets of `decide`, and what that model costs as measured.

    Raises:
        TargetMissedError: it was not within them after some attempts; the model is left as it is in any case.
    """
    for _ in range(_ATTEMPTS):
        found = find_plan(traced, decide)
        cost = measure(thin_copy(traced.model, found.recipe), traced.inputs) if found.recipe else decide.whole
        assert decide.spent is not None
        counts = {"parameters": cost.parameters, "macs": cost.macs}
        if all(counts[name] <= limit for name, limit in decide.limits.items()):
            return found, cost
        decide.reserve = {name: max(0, counts[name] - decide.spent.of(name)) for name in decide.limits}
    raise TargetMissedError(
        f"The budget of prune was missed: asked {decide.asked}, the thinned model has {cost.parameters:,} parameters "
        f"and {cost.macs:,} macs. Ask for a little less."
    )


def budget_facts(decide: ByBudget, cost: Cost) -> tuple[BudgetFacts, ...]:
    """Return what was asked and achieved, for the report."""
    whole = {"parameters": decide.whole.parameters, "macs": decide.whole.macs}
    after = {"parameters": cost.parameters, "macs": cost.macs}
    return tuple(BudgetFacts(name, limit, whole[name], after[name]) for name, limit in decide.limits.items())
