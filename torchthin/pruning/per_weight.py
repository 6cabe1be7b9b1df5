"""Plans without dependency groups: every weight is ranked alone."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor, nn

from torchthin.config import (
    NM,
    WEIGHT_DATA_CRITERIA,
    Distiller,
    PruneConfig,
    Ratio,
    Target,
    Unstructured,
)
from torchthin.errors import ConfigError, InputError
from torchthin.graph.inputs import Inputs
from torchthin.graph.parametrized import derived_weights
from torchthin.importance.scores import check_values, ranked
from torchthin.io.calibration import Calibration, picked
from torchthin.pruning.plan import PruningPlan
from torchthin.recovery.sparse_layers import prune_layers
from torchthin.recovery.stages import in_one_pass
from torchthin.report.from_masks import Filters, build_report
from torchthin.report.prune_report import Request
from torchthin.selection.channels import select_channels, select_weights
from torchthin.selection.distiller import backend_masks, distiller_masks
from torchthin.selection.masks import channel_masks
from torchthin.selection.nm import pattern_masks
from torchthin.selection.prunable_weights import PrunableWeights, find_prunable_weights
from torchthin.selection.schedule import planned_sparsities
from torchthin.selection.selectors import masks_of_sources

Masks = dict[str, Tensor]


def by_layer_inputs(config: PruneConfig) -> bool:
    """Whether single weights are ranked by what reaches their layers."""
    return not config.structured and config.criterion in WEIGHT_DATA_CRITERIA


def plan_per_weight(
    model: nn.Module, inputs: Inputs | None, config: PruneConfig, data: Calibration | None = None
) -> PruningPlan:
    """Decide weight by weight; with inputs, `PruningPlan.apply` removes what came out dead in all coupled layers.

    data: for criteria that look at the inputs of layers.
    """
    target, targets = config.target, targets_per_weight(model, config)
    check_values(model, {each.name for each in targets.targets})
    values: Masks = {}
    notes: tuple[str, ...] = ()
    if data is None:
        masks = _masks(target, model, targets, config)
    else:
        masks, values, notes = _masks_by_layer(model, targets, config, data)
    filters = _filters(model, targets, config)
    sizes = [_size(model, targets, each.name, config) for each in targets.targets]
    report = build_report(
        model,
        masks,
        filters,
        Request.of(config, target.share, planned_sparsities(config), targets.excluded),
        target.units_of_all(sizes),
        notes=(*targets.notes, *notes),
    )
    return PruningPlan(model, config, masks, report, None, inputs, values)


def _masks_by_layer(
    model: nn.Module, targets: PrunableWeights, config: PruneConfig, data: Calibration
) -> tuple[Masks, Masks, tuple[str, ...]]:
    """Return masks, new values of weights and biases, and notes. What has no inputs to look at is ranked by magnitude, first."""
    plain = replace(config, criterion=None)
    every, count, notes = in_one_pass(model, data)
    inputs = picked(every, torch.arange(count))
    otherwise = _masks(config.target, model, targets, plain)
    found = prune_layers(model, otherwise, config.target, config.ranked_by, inputs)
    if found.unranked:
        names = f"{', '.join(found.unranked[:4])}{', ...' if len(found.unranked) > 4 else ''}"
        notes += (
            f"{len(found.unranked)} of {len(otherwise)} weights have no inputs that {config.ranked_by} can look at; "
            f"{plain.ranked_by} ranks them: {names}.",
        )
    return dict(found.masks), dict(found.values), notes


def targets_per_weight(model: nn.Module, config: PruneConfig) -> PrunableWeights:
    """Return the weights that are pruned where each is ranked alone.

    Raises:
        InputError: a name cannot be used, or nothing is left to prune.
    """
    plain = isinstance(config.target, Distiller)
    targets = find_prunable_weights(
        model,
        structured=config.structured,
        include=config.include,
        exclude=config.exclude,
        derived={} if plain or not config.structured else derived_weights(model),
        plain=plain,
    )
    return _dividing(model, targets, config.target.m) if isinstance(config.target, NM) else targets


@singledispatch
def _masks(target: Target, model: nn.Module, targets: PrunableWeights, config: PruneConfig) -> Masks:
    raise ConfigError(
        f"The {type(target).__name__} of prune needs example_inputs. Give a tensor, a tuple or a dict."
    )


@_masks.register
def _channel_masks(target: Ratio, model: nn.Module, targets: PrunableWeights, config: PruneConfig) -> Masks:
    groups = [each.group(model.get_parameter(each.name)) for each in targets.targets]
    axes = {each.name: each.axis for each in targets.targets}
    derived = targets.derived
    weights = {name: derived[name].values if name in derived else model.get_parameter(name) for name in axes}
    ranking = ranked(groups, weights, axes, config.ranked_by, seed=config.seed)
    keeps = select_channels(
        groups,
        ranking.scores,
        target.share,
        target.scope,
        keep_at_least=target.floor,
        absolute=ranking.absolute,
        round_to=target.multiple,
    )
    return masks_of_sources(channel_masks(groups, keeps, model, axes), model, derived)


@_masks.register
def _weight_masks(
    target: Unstructured, model: nn.Module, targets: PrunableWeights, config: PruneConfig
) -> Masks:
    weights = {each.name: model.get_parameter(each.name) for each in targets.targets}
    return select_weights(
        weights,
        target.share,
        target.scope,
        criterion=config.ranked_by,
        keep_at_least=target.floor,
        seed=config.seed,
    )


@_masks.register
def _nm_masks(target: NM, model: nn.Module, targets: PrunableWeights, config: PruneConfig) -> Masks:
    weights = {each.name: (model.get_parameter(each.name), 1 - each.axis) for each in targets.targets}
    return pattern_masks(weights, target.n, target.m, config.ranked_by, config.seed)


@_masks.register
def _distiller_masks(
    target: Distiller, model: nn.Module, targets: PrunableWeights, config: PruneConfig
) -> Masks:
    weights = {each.name: model.get_parameter(each.name) for each in targets.targets}
    if target.backend is None:
        return distiller_masks(weights, target.rule, target.sparsity, target.agp_steps)
    return backend_masks(model, weights, target.method, target.sparsity, target.agp_steps)


def _dividing(model: nn.Module, targets: PrunableWeights, m: int) -> PrunableWeights:
    """Return the targets without the weights whose inputs are no multiple of `m`; they are named.

    Raises:
        InputError: nothing is left.
    """
    fitting, notes = [], []
    for target in targets.targets:
        weight = model.get_parameter(target.name)
        inputs = weight.shape[1 - target.axis] if weight.dim() > 1 else 1
        if inputs % m:
            notes.append(f"{target.name} is not pruned: its {inputs} inputs are no multiple of {m}.")
        else:
            fitting.append(target)
    if not fitting:
        raise InputError(
            f"The model has no weight whose inputs are a multiple of {m}, so the pattern fits none. Choose another pattern."
        )
    return replace(targets, targets=tuple(fitting), notes=(*targets.notes, *notes))


def _axis(target: Target, own: int, per_filter: int) -> tuple[int, int]:
    """Return the axis that is pruned of a weight, and how many of its indices are one filter."""
    if isinstance(target, Distiller) and target.structured:
        return target.rule.axis, 1
    return own, per_filter


def _size(model: nn.Module, targets: PrunableWeights, name: str, config: PruneConfig) -> int:
    """Return how many channels or weights of a target can be pruned."""
    weight = model.get_parameter(name)
    if not config.structured:
        return weight.numel()
    found = next(each for each in targets.targets if each.name == name)
    axis, per_filter = _axis(config.target, found.axis, found.per_filter)
    return weight.shape[axis] // per_filter


def _filters(model: nn.Module, targets: PrunableWeights, config: PruneConfig) -> dict[str, Filters]:
    """Return for the report where the filters of each target lie and how many units are asked for."""
    found = {}
    for each in targets.targets:
        axis, per_filter = _axis(config.target, each.axis, each.per_filter)
        derived = targets.derived.get(each.name)
        name = (derived and derived.masked) or each.name
        size = _size(model, targets, each.name, config)
        found[name] = Filters(axis, per_filter, config.target.units(size))
    return found
