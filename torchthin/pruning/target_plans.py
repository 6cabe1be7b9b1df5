"""How each target finds its thinning plan.

A new target is a class in `config.py` and one function here; one of a room above brings the function as its method `thinning`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, singledispatch

from torchthin.config import Budget, PruneConfig, Ratio, Target, refuse
from torchthin.config.targets import AUTO, OUTPUTS
from torchthin.dependency.components import find_groups
from torchthin.dependency.kinds import INNER, attends, head_widths, kinds_of, whole_heads
from torchthin.dependency.propagate import propagate
from torchthin.errors import ConfigError, TargetMissedError
from torchthin.evaluation.refitted_outputs import RefittedOutputs
from torchthin.evaluation.results import Progress
from torchthin.evaluation.sensitivity_scan import scanned
from torchthin.graph.cost import Cost, measure, shares_of_sample
from torchthin.graph.inputs import Inputs
from torchthin.graph.sample import Sample, one_sample
from torchthin.graph.trace import Traced
from torchthin.importance.registry import criterion as registered
from torchthin.importance.statistics import Loss, Measure
from torchthin.pruning.expert_plans import KIND, expert_plan
from torchthin.pruning.latency_plan import within_latency
from torchthin.report.sections import BudgetFacts, Budgets, Section
from torchthin.selection.budget_rule import BudgetRule
from torchthin.selection.kind_choice import KindChoice
from torchthin.selection.prunable_weights import PrunableWeights
from torchthin.selection.selectors import ImportanceSelector, RatioRule, Rule
from torchthin.selection.sensitivity_table import Sensitivity, read_table
from torchthin.thinning.apply import borrowed, thin_copy
from torchthin.thinning.search.constraints import Constraints
from torchthin.thinning.search.trial_loop import ThinningPlan, find_plan

_ATTEMPTS = 4
"""Plans within a budget: what thinning adds is left free in the next one."""


@dataclass(frozen=True)
class Run:
    """One run of `prune` over dependency groups: what was found before anything is selected."""

    traced: Traced
    targets: PrunableWeights
    config: PruneConfig
    batches: tuple[Inputs, ...] = ()
    """Calibration data, on the model's device."""
    loss: Loss | None = None
    progress: Progress | None = None
    """Told of layers that are timed."""
    undescribed: frozenset[str] = frozenset()
    """Groups that stay, since no configuration of the model describes them cut."""

    @cached_property
    def statistics(self) -> Measure | None:
        """The model on data; None where the criterion needs none."""
        if not registered(self.config.ranked_by).needs_data:
            return None
        return Measure(self.traced.model, self.batches, self.traced.derived, self.loss, self.config.seed)

    @cached_property
    def refitted_outputs(self) -> RefittedOutputs:
        """What measures the outputs with layers refitted, for the allocation 'outputs'.

        Raises:
            ConfigError: there are no data.
        """
        if not self.batches:
            raise ConfigError(
                "The allocation 'outputs' needs data. Give data=[...] (on the command line --data), or leave it out."
            )
        return RefittedOutputs.of(self.traced.model, self.batches, self.traced.derived)

    def plan(self, rule: Rule) -> ThinningPlan:
        """Return the plan of what `rule` keeps, tried and proved.

        Where a model with attention has nothing else that can be removed by default, the width of its heads goes.
        """
        found = find_plan(self.traced, self.selector(rule), constraints=self.constraints)
        if found.recipe or not self.choice.default or self.choice.asked:
            return found
        select = replace(self.selector(rule), choice=replace(self.choice, default=(*INNER, "head_dim")))
        return find_plan(self.traced, select, constraints=Constraints.of(self.config))

    @cached_property
    def constraints(self) -> Constraints:
        """What every proposal keeps to: attention is cut by whole heads first, or by their width where that was asked for.

        Where weights are named and no kinds, whatever works first is taken, the same places of all heads in most models.
        """
        widths = "head_dim" in self.choice.asked
        units = head_widths(self.traced.graph) if widths else self._heads
        named = self.targets.named and not self.choice.asked
        return replace(Constraints.of(self.config), units={} if named else units)

    @cached_property
    def choice(self) -> KindChoice:
        """What is asked for by kind; of a model with attention `INNER` where nothing is chosen."""
        inner = not self.targets.named and (bool(self._heads) or self._fixed_heads)
        asked = KindChoice.of(self.config.target, INNER if inner else ())
        return replace(asked, left_out=self.undescribed)

    @cached_property
    def _fixed_heads(self) -> bool:
        """Whether the model has attention, whose heads cannot be told apart, beside something that goes by default."""
        graph = self.traced.graph
        if not attends(graph):
            return False
        labels = propagate(graph)
        return not {*INNER}.isdisjoint(kinds_of(find_groups(labels), labels).of_groups.values())

    @cached_property
    def _heads(self) -> Mapping[int, int]:
        return whole_heads(self.traced.graph)

    def selector(self, rule: Rule) -> ImportanceSelector:
        """Return the selector by importance that asks `rule` how much is kept."""
        config = self.config
        return ImportanceSelector(
            self.traced.model, self.targets, rule, config.ranked_by, self.statistics, config.seed, self.choice
        )


@singledispatch
def thinning_for(target: Target, run: Run) -> tuple[ThinningPlan, tuple[Section, ...]]:
    """Return a plan, tried and proved, that reaches `target`, and further fields of the report.

    Raises:
        InputError: the target does not go with dependency groups, or asks for too much.
        TargetMissedError: it cannot be reached, as trials have shown.
        ProofError: no way to thin the model held.
    """
    found: tuple[ThinningPlan, tuple[Section, ...]] = target.thinning(run)
    return found


@thinning_for.register
def _ratio(target: Ratio, run: Run) -> tuple[ThinningPlan, tuple[Section, ...]]:
    if KIND in target.by_kind:
        found = expert_plan(run.traced, run.targets, run.config, run.batches)
        if found is not None:
            return found, ()
    return run.plan(RatioRule(target, target.multiple, target.even)), ()


@thinning_for.register
def _budget(target: Budget, run: Run) -> tuple[ThinningPlan, tuple[Section, ...]]:
    model, inputs = run.traced.model, run.traced.inputs
    sample = one_sample(model, inputs)
    shares = shares_of_sample(model, inputs, sample)
    outputs = run.refitted_outputs if target.allocation == OUTPUTS else None
    losses = None if outputs else _losses(target, run)
    rule = BudgetRule(target, measure(model, sample), shares, losses, outputs)
    if target.latency is None:
        found, cost = _within(rule, run, sample)
        return found, (_section(rule, cost, found),)
    timed = within_latency(rule, run.traced, lambda each: _within(each, run, sample), run.progress)
    section = _section(timed.rule, timed.cost, timed.found)
    return timed.found, (replace(section, facts=(*section.facts, timed.facts)),)


def _within(rule: BudgetRule, run: Run, sample: Sample) -> tuple[ThinningPlan, Cost]:
    """Return a plan whose thinned model has no more parameters and MACs than allowed, and its cost.

    Raises:
        TargetMissedError: what thinning adds was too much in every attempt.
    """
    limits = {name: limit for name, limit in rule.limits.items() if name != "latency"}
    for _ in range(_ATTEMPTS):
        found = run.plan(rule)
        cost = (
            measure(thin_copy(run.traced.model, found.recipe, borrowed, values=False), sample)
            if found.recipe
            else rule.whole
        )
        counts = {"parameters": cost.parameters, "macs": cost.macs}
        if all(counts[name] <= limit for name, limit in limits.items()):
            return found, cost
        expected = found.proposal.selection.facts
        rule = replace(rule, reserve={name: max(0, counts[name] - expected.of(name)) for name in limits})
    raise TargetMissedError(
        f"The budget was missed: asked {rule.asked}, the thinned model has {cost.parameters:,} parameters "
        f"and {cost.macs:,} {cost.unit}. Ask for a little less."
    )


def _section(rule: BudgetRule, cost: Cost, found: ThinningPlan) -> Budgets:
    losses, groups = rule.losses, found.proposal.selection.groups
    if rule.outputs is not None:
        return Budgets(_facts(rule, cost), "where the outputs move least once layers are refitted")
    if losses is not None:
        unmeasured = [group.name for group in groups if not losses.curve_of(group.name, group.size).most]
        return Budgets(_facts(rule, cost), "where the measured losses are least", tuple(unmeasured))
    by_score = rule.target.scope == "global"
    return Budgets(
        _facts(rule, cost), "by score over all groups" if by_score else "the same share of every group"
    )


def _facts(rule: BudgetRule, cost: Cost) -> tuple[BudgetFacts, ...]:
    whole = {"parameters": rule.whole.parameters, "macs": rule.whole.macs}
    after = {"parameters": cost.parameters, "macs": cost.macs}
    units = {"parameters": "parameters", "macs": cost.unit}
    return tuple(
        BudgetFacts(name, limit, whole[name], after[name], units[name])
        for name, limit in rule.limits.items()
        if name in units
    )


def _losses(target: Budget, run: Run) -> Sensitivity | None:
    """Return what says how a budget is spread over the groups, None where all lose the same share."""
    given = target.allocation
    if given is None or isinstance(given, Sensitivity):
        return given
    if not isinstance(given, str | os.PathLike):
        refuse(target, "allocation", "'auto', 'outputs' or what torchthin sensitivity found", given)
    if given != AUTO:
        return read_table(os.fspath(given))
    batches = run.batches or (run.traced.inputs,)
    return scanned(run.selector(RatioRule(Ratio())), run.traced, batches, constraints=run.constraints)
