"""Masks by groups: what is masked can be thinned, and a trial has shown it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import nn

from torchthin.config import DEFAULT_SPARSITY, PruneConfig
from torchthin.dependency.groups import Group
from torchthin.evaluation.sensitivity_scan import Scan, scanned
from torchthin.graph.clone import clone, duplicate
from torchthin.graph.cost import measure
from torchthin.graph.inputs import Inputs
from torchthin.graph.trace import Traced, trace
from torchthin.importance.scores import FALLBACK, Ranking
from torchthin.importance.statistics import Loss
from torchthin.max7800x.cost.table import chip_named
from torchthin.max7800x.selector import ByChip, by_chip
from torchthin.pruning.counts import count_of, planned_sparsities, units_asked
from torchthin.pruning.evidence import by_importance
from torchthin.pruning.result import PruneResult
from torchthin.pruning.thinned_result import thinned_result
from torchthin.pruning.within_budget import budget_facts, plan_within
from torchthin.report.pruning import Filters, build_report
from torchthin.selection.allocation import by_allocation
from torchthin.selection.budget import ByBudget, by_budget
from torchthin.selection.selectors import ByImportance
from torchthin.selection.sensitivity_table import Sensitivity, read_table
from torchthin.selection.targets import TargetPlan
from torchthin.thinning.plan import ThinningPlan, find_plan, masked_biases


def prune_groups(
    model: nn.Module,
    plan: TargetPlan,
    config: PruneConfig,
    inputs: Inputs,
    batches: tuple[Inputs, ...],
    loss: Loss | None,
) -> PruneResult:
    """Prune by groups: what is masked can be thinned, and a trial has shown it."""
    planned = planned_sparsities(config)
    traced = trace(model, inputs)
    decide = by_importance(model, plan, config, batches, loss)
    if config.chip is not None:
        decide = by_chip(decide, inputs, chip_named(config.chip), config.goals)
    if config.budgets:
        table = _table(decide, config, traced, batches)
        decide = by_budget(decide, config.budgets, measure(model, inputs))
        if table is not None:
            decide = by_allocation(decide, table)
        found, cost = plan_within(traced, decide)
    else:
        found = find_plan(traced, decide)
    decision = found.proposal.decision
    if isinstance(decide, (ByChip, ByBudget)):
        config = replace(config, target_sparsity=_share_gone(decision.keeps))
        planned = (config.target_sparsity,)
    masks = {name: mask.contiguous() for name, mask in decision.masks.items()}
    biases = [name for name in masks if name not in decide.axes]
    ranked = {name: mask for name, mask in masks.items() if name in decide.axes}
    groups = found.proposal.grouping.groups.groups
    filters, asked = asked_of_groups(groups, decision.keeps, config, decide.axes, ranked)
    zeroed = {**masks, **decision.silenced}
    masked = clone(model, lambda name, t: t.detach() * zeroed[name] if name in zeroed else duplicate(name, t))
    report = build_report(
        masked,
        ranked,
        filters,
        config,
        schedule=planned,
        asked=asked,
        kept=plan.kept,
        notes=(
            *plan.notes,
            *_fallen_back(decide.ranking, config.rule.criterion),
            *frozen_targets(found, decide.axes, ranked),
            *_silenced(biases),
            *masked_biases(found),
            *filter(None, [found.proposal.labels.graph.note, found.outcome.note]),
        ),
    )
    if isinstance(decide, ByChip) and decide.change is not None:
        report = replace(report, sections=(decide.change,))
    if isinstance(decide, ByBudget):
        report = replace(report, budgets=budget_facts(decide, cost))
    if not config.thin:
        return PruneResult(masked, zeroed, report, found.recipe or None, found.outcome.proof, config)
    return thinned_result(masked, zeroed, found, report, inputs, config)


def _table(
    decide: ByImportance, config: PruneConfig, traced: Traced, batches: tuple[Inputs, ...]
) -> Sensitivity | None:
    """Return what says how to spread a budget over the groups, None where all lose the same share."""
    if config.allocation is None:
        return None
    if config.allocation != "auto":
        return read_table(config.allocation)
    return scanned(
        replace(decide, target_sparsity=DEFAULT_SPARSITY), traced, Scan(batches or (traced.inputs,))
    )


def _share_gone(keeps: Mapping[str, npt.NDArray[np.bool_]]) -> float:
    total = sum(keep.size for keep in keeps.values())
    return sum(int((~keep).sum()) for keep in keeps.values()) / total if total else 0.0


def asked_of_groups(
    groups: Iterable[Group],
    keeps: Mapping[str, npt.NDArray[np.bool_]],
    config: PruneConfig,
    axes: Mapping[str, int],
    masks: Iterable[str],
) -> tuple[dict[str, Filters], int]:
    """Return what the target stands for, per weight and in all: what rounding takes off is not asked, nor what is frozen."""
    groups = [group for group in groups if group.name in keeps]
    asked = dict.fromkeys(masks, 0)
    total = 0
    for group in groups:
        gone = int((~keeps[group.name]).sum())
        exact = bool(group.balances) or config.chip is not None or bool(config.budgets)
        count = gone if exact else count_of(config, group.size)
        total += count
        for member in group.members:
            if axes.get(member.parameter) == member.axis and member.parameter in asked:
                lost = member.of(keeps[group.name]).size
                asked[member.parameter] += (
                    lost if config.scope == "global" or exact else count * member.indices.shape[1]
                )
    filters = {name: Filters(axes[name], 1, asked[name]) for name in asked}
    if config.scope == "global":
        return filters, units_asked(config, [group.size for group in groups])
    return filters, sum(asked.values())


def _fallen_back(ranking: Ranking | None, criterion: str) -> tuple[str, ...]:
    """Say which groups the criterion could not rank."""
    if ranking is None or not ranking.fallen_back:
        return ()
    names = ranking.fallen_back
    listed = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
    return (
        f"{len(names)} of {len(ranking.scores)} groups have nothing that {criterion} looks at; {FALLBACK} ranks them: {listed}.",
    )


def _silenced(biases: list[str]) -> tuple[str, ...]:
    if not biases:
        return ()
    listed = f"{', '.join(biases[:4])}{', ...' if len(biases) > 4 else ''}"
    return (
        f"The biases of hidden states that go are masked with them (they would keep the states moving): {listed}.",
    )


def frozen_targets(found: ThinningPlan, axes: Mapping[str, int], masks: Iterable[str]) -> tuple[str, ...]:
    """Say why filters of the masked weights stay."""
    masks = set(masks)
    frozen = found.proposal.grouping.groups.frozen
    return tuple(
        f"{item.parameter}: {item.count} filters stay, {item.reason}."
        for item in frozen
        if item.parameter in masks and axes.get(item.parameter) == item.axis
    )
