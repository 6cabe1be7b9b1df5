"""`prune`: the only place that knows all stages. Decide on the caller's model, change only a copy of it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from torchthin import schedule
from torchthin.config import PruneConfig
from torchthin.distiller import agp_target, distiller_masks
from torchthin.errors import ConfigError, InputError
from torchthin.importance.scores import group_scores
from torchthin.importance.values import check_values
from torchthin.masks import apply_masks_, channel_masks
from torchthin.report.facts import Filters, PruneReport, build_report
from torchthin.selection import prune_count, select_channels, select_weights
from torchthin.targets import Target, TargetPlan, find_targets


@dataclass(frozen=True)
class PruneResult:
    """What `prune` returns; printing it gives the report's table."""

    model: nn.Module = field(repr=False)
    """A copy of the caller's model with the masked weights at zero."""
    masks: Mapping[str, Tensor] = field(repr=False)
    """Weight name -> bool tensor of its shape, True = keep."""
    report: PruneReport
    recipe: None = None
    """What would thin the model; None unless thinned."""
    proof: None = None
    """How masked and thinned model compare; None unless thinned."""

    def __str__(self) -> str:
        return str(self.report)


def planned_sparsities(config: PruneConfig) -> tuple[float, ...]:
    """Return the sparsity after every step; the last one is what is asked for.

    With Distiller's AGP the last one is above the target, as there.
    """
    if config.rule.schedule == "one-shot":
        return (schedule.one_shot(1, target=config.target_sparsity),)
    steps = range(1, config.agp_steps + 1)
    planned = tuple(schedule.agp(t, target=config.target_sparsity, steps=config.agp_steps) for t in steps)
    if config.compat == "distiller":
        return (*planned[:-1], agp_target(config.target_sparsity, config.agp_steps))
    return planned


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            f"The model of prune must be copyable by copy.deepcopy. {type(model).__name__} raised "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}. "
            "Remove what holds computed tensors or open handles (weight_norm, torch.nn.utils.prune, caches)."
        ) from error


def _structured_masks(
    model: nn.Module, targets: Iterable[Target], config: PruneConfig, sparsity: float
) -> tuple[dict[str, Tensor], int]:
    """Return the masks of whole channels and how many channels were asked for."""
    groups = [target.group(model.get_parameter(target.name)) for target in targets]
    axes = {target.name: target.axis for target in targets}
    weights = {name: model.get_parameter(name) for name in axes}
    # The weights stand still between virtual steps, and selections at fixed scores are nested: the last step
    # says all.
    scores = group_scores(groups, weights, axes, config.rule.criterion)
    keeps = select_channels(groups, scores, sparsity, config.scope)
    sizes = [group.size for group in groups]
    return channel_masks(groups, keeps, model, axes), _asked(config, sizes)


def _unstructured_masks(
    model: nn.Module, targets: Iterable[Target], config: PruneConfig, sparsity: float
) -> tuple[dict[str, Tensor], int]:
    """Return the masks of single weights and how many weights were asked for."""
    weights = {target.name: model.get_parameter(target.name) for target in targets}
    masks = select_weights(weights, sparsity, config.scope)
    return masks, _asked(config, [weight.numel() for weight in weights.values()])


def _asked(config: PruneConfig, sizes: list[int]) -> int:
    if config.scope == "global":
        return prune_count(config.target_sparsity, sum(sizes))
    return sum(prune_count(config.target_sparsity, size) for size in sizes)


def _decide(
    model: nn.Module, plan: TargetPlan, config: PruneConfig, sparsity: float
) -> tuple[dict[str, Tensor], int]:
    """Return the masks of the targets, and how many channels or weights were asked for in total."""
    if config.compat == "distiller":
        weights = {target.name: model.get_parameter(target.name) for target in plan.targets}
        masks = distiller_masks(weights, config.rule, config.target_sparsity, config.agp_steps)
        filters = _filters(model, plan, config)
        return masks, sum(item.asked for item in filters.values())
    decide = _structured_masks if config.rule.structured else _unstructured_masks
    return decide(model, plan.targets, config, sparsity)


def _filters(model: nn.Module, plan: TargetPlan, config: PruneConfig) -> dict[str, Filters]:
    """Return for the report where the filters of each target lie and how many units the target stands for."""
    found = {}
    for target in plan.targets:
        weight = model.get_parameter(target.name)
        axis, per_filter = target.axis, target.per_filter
        if config.compat == "distiller" and config.rule.axis is not None:
            axis, per_filter = config.rule.axis, 1
        size = weight.shape[axis] // per_filter if config.rule.structured else weight.numel()
        found[target.name] = Filters(axis, per_filter, prune_count(config.target_sparsity, size))
    return found


def prune_with(model: nn.Module, config: PruneConfig) -> PruneResult:
    """Prune a copy of `model` as `config` says; see `prune`."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"The model of prune must be a torch.nn.Module. Got {type(model).__name__}.")
    if config.thin:
        raise ConfigError(
            "The thin of prune must be False: removing channels needs the channel graph, which this version "
            "does not have. Leave thin out; the masked model and its masks are complete without it."
        )
    plan = find_targets(model, structured=config.rule.structured, weights=config.weights, keep=config.keep)
    check_values(model, {target.name for target in plan.targets})
    planned = planned_sparsities(config)
    masks, asked = _decide(model, plan, config, planned[-1])
    pruned = _copied(model)
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
    return PruneResult(pruned, masks, report)


def prune(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    method: str = "agp-structured",
    target_sparsity: float = 0.5,
    agp_steps: int = 10,
    weights: Iterable[str] | None = None,
    keep: Iterable[str] | None = None,
    compat: str | None = None,
    thin: bool = False,
    scope: str = "group",
) -> PruneResult:
    """Return a pruned copy of `model`; the model itself is left as it is.

    Structured methods mask ``floor(target_sparsity * n)`` whole filters of every layer (all layers together
    with ``scope="global"``), ``agp-unstructured`` that share of the single weights; ties go by index. Only
    weights are set to
    zero: biases and BatchNorm keep their values. AGP (Zhu & Gupta 2017) grows the sparsity over `agp_steps`
    virtual steps; the steps change the outcome only where training runs between them.

    example_inputs: for thinning; not needed to mask. method: a key of `METHODS`. target_sparsity: in [0, 1).
    weights: names that replace the default targets (convolutions; for unstructured also linear layers).
    keep: fnmatch patterns of weight or module names to keep whole, such as output layers.
    compat: "distiller" for Distiller's masks bit for bit, overshoot and ties included.
    thin: remove what is masked (not yet: raises). scope: "group" or "global".

    Raises `InputError` (also a ValueError): `ConfigError` for bad arguments, `WeightNameError` for weight
    names, and for models with nothing to prune, with NaN, without values, or that cannot be copied.

    >>> result = prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), keep=["2"])
    >>> {name: int(mask.flatten(1).all(1).sum()) for name, mask in result.masks.items()}
    {'0.weight': 4}
    """
    config = PruneConfig(
        method=method,
        target_sparsity=target_sparsity,
        agp_steps=agp_steps,
        weights=None if weights is None else weights,  # type: ignore[arg-type]
        keep=() if keep is None else keep,  # type: ignore[arg-type]
        compat=compat,
        thin=thin,
        scope=scope,
    )
    return prune_with(model, config)
