"""Masks without a channel graph: every weight is decided about alone."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.errors import InputError
from torchthin.graph.clone import clone, duplicate
from torchthin.graph.inputs import Inputs
from torchthin.graph.trace import trace
from torchthin.importance.scores import ranked
from torchthin.pruning.counts import count_of, planned_sparsities, units_asked
from torchthin.pruning.result import PruneResult
from torchthin.pruning.thinned_result import thinned_result
from torchthin.report.pruning import Filters, build_report
from torchthin.selection.channels import select_channels, select_weights
from torchthin.selection.distiller import distiller_masks
from torchthin.selection.distiller_backend import backend_masks
from torchthin.selection.masks import apply_masks_, channel_masks
from torchthin.selection.nm import pattern_masks
from torchthin.selection.selectors import DeadChannels, effective_weights, masks_of_sources
from torchthin.selection.targets import TargetPlan
from torchthin.thinning.plan import find_plan


def _structured_masks(
    model: nn.Module, plan: TargetPlan, config: PruneConfig, sparsity: float
) -> tuple[dict[str, Tensor], int]:
    """Return the masks of whole channels and how many channels were asked for."""
    groups = [target.group(model.get_parameter(target.name)) for target in plan.targets]
    axes = {target.name: target.axis for target in plan.targets}
    weights = {
        name: plan.derived[name].values if name in plan.derived else model.get_parameter(name)
        for name in axes
    }
    # The weights stand still between virtual steps, and selections at fixed scores are nested: the last step
    # says all.
    ranking = ranked(groups, weights, axes, config.rule.criterion, seed=config.seed)
    keeps = select_channels(
        groups,
        ranking.scores,
        sparsity,
        config.scope,
        keep_at_least=config.floor,
        absolute=ranking.absolute,
        round_to=config.round_to,
    )
    sizes = [group.size for group in groups]
    masks = channel_masks(groups, keeps, model, axes)
    return masks_of_sources(masks, model, plan.derived), units_asked(config, sizes)


def _unstructured_masks(
    model: nn.Module, plan: TargetPlan, config: PruneConfig, sparsity: float
) -> tuple[dict[str, Tensor], int]:
    """Return the masks of single weights and how many weights were asked for."""
    weights = {target.name: model.get_parameter(target.name) for target in plan.targets}
    masks = select_weights(
        weights,
        sparsity,
        config.scope,
        criterion=config.rule.criterion,
        keep_at_least=config.floor,
        seed=config.seed,
    )
    return masks, units_asked(config, [weight.numel() for weight in weights.values()])


def _patterned_masks(
    model: nn.Module, plan: TargetPlan, config: PruneConfig, sparsity: float
) -> tuple[dict[str, Tensor], int]:
    """Return the n:m masks and how many weights were asked for."""
    assert config.blocks is not None
    weights = {target.name: (model.get_parameter(target.name), 1 - target.axis) for target in plan.targets}
    masks = pattern_masks(weights, *config.blocks, config.rule.criterion, config.seed)
    return masks, units_asked(config, [weight.numel() for weight, _ in weights.values()])


def _dividing(model: nn.Module, plan: TargetPlan, m: int) -> TargetPlan:
    """Return the plan without the weights whose inputs are no multiple of `m`; they are named.

    Raises:
        InputError: nothing is left.
    """
    fitting, notes = [], []
    for target in plan.targets:
        weight = model.get_parameter(target.name)
        inputs = weight.shape[1 - target.axis] if weight.dim() > 1 else 1
        if inputs % m:
            notes.append(f"{target.name} stays whole: its {inputs} inputs are no multiple of {m}.")
        else:
            fitting.append(target)
    if not fitting:
        raise InputError(
            f"The model has no weight whose inputs are a multiple of {m}, so the pattern fits none. Choose another pattern."
        )
    return replace(plan, targets=tuple(fitting), notes=(*plan.notes, *notes))


def _decide(
    model: nn.Module, plan: TargetPlan, config: PruneConfig, sparsity: float
) -> tuple[dict[str, Tensor], int]:
    """Return the masks of the targets, and how many channels or weights were asked for in total."""
    if config.compat == "distiller":
        weights = {target.name: model.get_parameter(target.name) for target in plan.targets}
        if config.backend is None:
            masks = distiller_masks(weights, config.rule, config.target_sparsity, config.agp_steps)
        else:
            masks = backend_masks(model, weights, config.method, config.target_sparsity, config.agp_steps)
        filters = _filters(model, plan, config)
        return masks, sum(item.asked for item in filters.values())
    decide = _structured_masks if config.rule.structured else _unstructured_masks
    decide = decide if config.blocks is None else _patterned_masks
    return decide(model, plan, config, sparsity)


def _filters(model: nn.Module, plan: TargetPlan, config: PruneConfig) -> dict[str, Filters]:
    """Return for the report where the filters of each target lie and how many units the target stands for."""
    found = {}
    for target in plan.targets:
        weight = model.get_parameter(target.name)
        axis, per_filter = target.axis, target.per_filter
        if config.compat == "distiller" and config.rule.axis is not None:
            axis, per_filter = config.rule.axis, 1
        size = weight.shape[axis] // per_filter if config.rule.structured else weight.numel()
        derived = plan.derived.get(target.name)
        found[(derived and derived.masked) or target.name] = Filters(axis, per_filter, count_of(config, size))
    return found


def prune_alone(
    model: nn.Module, plan: TargetPlan, config: PruneConfig, inputs: Inputs | None
) -> PruneResult:
    """Prune weight by weight; with thin=True, what came out dead in all coupled layers is removed."""
    if config.blocks is not None:
        plan = _dividing(model, plan, config.blocks[1])
    planned = planned_sparsities(config)
    masks, asked = _decide(model, plan, config, planned[-1])
    pruned = clone(model, duplicate)
    apply_masks_(pruned, masks)
    report = build_report(
        pruned,
        masks,
        _filters(model, plan, config),
        config,
        schedule=planned,
        asked=asked,
        kept=plan.kept,
        notes=plan.notes,
    )
    if not config.thin or inputs is None:
        return PruneResult(pruned, masks, report, config=config)
    found = find_plan(trace(pruned, inputs), DeadChannels(effective_weights(pruned)))
    return thinned_result(pruned, masks, found, report, inputs, config)
