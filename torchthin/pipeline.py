"""`prune`: the only place that knows all stages. Decide on the caller's model, change only a copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from torchthin import schedule
from torchthin.budgets.allocation import by_allocation
from torchthin.budgets.decision import ByBudget, by_budget
from torchthin.budgets.within import budget_facts, plan_within
from torchthin.calibration import calibration
from torchthin.chips.table import chip_named
from torchthin.chipwise import ByChip, by_chip
from torchthin.config import DEFAULT_SPARSITY, PruneConfig
from torchthin.cost import measure
from torchthin.distiller.backend import backend_masks
from torchthin.distiller.masks import agp_target, distiller_masks
from torchthin.errors import ConfigError, InputError
from torchthin.groups import Group
from torchthin.importance.measuring import Loss, Measure
from torchthin.importance.registry import criterion as registered
from torchthin.importance.scores import FALLBACK, Ranking, ranked
from torchthin.importance.values import check_values
from torchthin.masks import apply_masks_, channel_masks
from torchthin.patterns import pattern_masks
from torchthin.proof import Proof
from torchthin.report.facts import Filters, PruneReport, build_report
from torchthin.saving import save_pruned
from torchthin.scan.scanning import Progress, Scan, scanned
from torchthin.scan.table import Sensitivity, read_table
from torchthin.selection import prune_count, select_channels, select_weights
from torchthin.structured import ByImportance, DeadChannels, effective_weights, masks_of_sources
from torchthin.targets import TargetPlan, find_targets
from torchthin.thinning.apply import apply_
from torchthin.thinning.plan import (
    Plan,
    find_plan,
    folded_values,
    inexact_layers,
    rescaled_layers,
    silenced_biases,
)
from torchthin.thinning.recipe import Recipe
from torchthin.trace.clone import clone, duplicate
from torchthin.trace.inputs import Inputs, as_inputs, on_device_of, own_example
from torchthin.trace.model import check_model


@dataclass(frozen=True)
class PruneResult:
    """What `prune` returns; printing it gives the report's table."""

    model: nn.Module = field(repr=False)
    """A copy of the caller's model: thinned when that was asked, else with the masked weights at zero."""
    masks: Mapping[str, Tensor] = field(repr=False)
    """Weight name (seldom bias name) -> bool tensor of its shape, True = keep."""
    report: PruneReport
    recipe: Recipe | None = field(default=None, repr=False)
    """What thins the model; None without example inputs or when nothing can be removed."""
    proof: Proof | None = None
    """How masked and thinned model compare; None without example inputs."""
    config: PruneConfig = field(default_factory=PruneConfig, repr=False)
    """What was asked for."""

    def save(self, path: str | Path) -> None:
        """Write the checkpoint that ``--save-to`` writes; `load` reads it into a full-size instance of the class.

        The file (a torch file that loads with ``weights_only=True``, or safetensors by its ending) appears whole.

        Raises:
            CheckpointError: the file cannot be written; what was there before is untouched.
        """
        recipe = self.recipe if self.config.thin else None
        state = self.model.state_dict()
        source = type(self.model).__name__
        save_pruned(path, state, self.masks, self.report, self.config, recipe, source=source)

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


def _structured_masks(
    model: nn.Module, plan: TargetPlan, config: PruneConfig, sparsity: float
) -> tuple[dict[str, Tensor], int]:
    """Return the masks of whole channels and how many channels were asked for."""
    groups = [target.group(model.get_parameter(target.name)) for target in plan.targets]
    axes = {target.name: target.axis for target in plan.targets}
    weights = {
        name: plan.computed[name].values if name in plan.computed else model.get_parameter(name)
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
    )
    sizes = [group.size for group in groups]
    masks = channel_masks(groups, keeps, model, axes)
    return masks_of_sources(masks, model, plan.computed), _asked(config, sizes)


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
    return masks, _asked(config, [weight.numel() for weight in weights.values()])


def _patterned_masks(
    model: nn.Module, plan: TargetPlan, config: PruneConfig, sparsity: float
) -> tuple[dict[str, Tensor], int]:
    """Return the n:m masks and how many weights were asked for."""
    assert config.blocks is not None
    weights = {target.name: (model.get_parameter(target.name), 1 - target.axis) for target in plan.targets}
    masks = pattern_masks(weights, *config.blocks, config.rule.criterion, config.seed)
    return masks, _asked(config, [weight.numel() for weight, _ in weights.values()])


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


def _asked(config: PruneConfig, sizes: list[int]) -> int:
    if config.scope == "global":
        return prune_count(config.target_sparsity, sum(sizes))
    return sum(_count(config, size) for size in sizes)


def _count(config: PruneConfig, size: int) -> int:
    """Return how many of `size` channels or weights are asked for."""
    if config.blocks is None:
        return prune_count(config.target_sparsity, size)
    n, m = config.blocks
    return size // m * (m - n)


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
        computed = plan.computed.get(target.name)
        found[(computed and computed.masked) or target.name] = Filters(axis, per_filter, _count(config, size))
    return found


def prune_with(
    model: nn.Module,
    config: PruneConfig,
    example_inputs: Any = None,
    *,
    data: Any = None,
    loss: Loss | None = None,
) -> PruneResult:
    """Prune a copy of `model` as `config` says; see `prune`."""
    check_model(model, "prune")
    if config.rule.structured:
        check_evidence(config, example_inputs, data, loss)
    if config.thin and example_inputs is None:
        example_inputs = own_example(model)
    if config.thin and example_inputs is None:
        raise ConfigError(
            "The thin of prune needs example_inputs: channels are followed through one run of the model. "
            "Give a tensor, a tuple or a dict (on the command line --input-shape 1,3,224,224 or --dataset)."
        )
    if config.chip is not None and example_inputs is None:
        raise ConfigError(
            "The chip of prune needs example_inputs: cycles depend on the input's size. "
            "Give a tensor (on the command line --input-shape 1,3,128,128)."
        )
    if config.budgets and example_inputs is None:
        raise ConfigError(
            "The target_params and target_macs of prune need example_inputs: what a channel costs follows from one run of "
            "the model. Give a tensor, a tuple or a dict (on the command line --input-shape 1,3,224,224)."
        )
    plan = find_targets(
        model,
        structured=config.rule.structured,
        weights=config.weights,
        keep=config.keep,
        plain=config.compat is not None,
        coupled=example_inputs is not None and config.rule.structured and config.compat is None,
    )
    check_values(model, {target.name for target in plan.targets})
    inputs = None if example_inputs is None else on_device_of(model, as_inputs(example_inputs))
    if inputs is not None and config.rule.structured and config.compat is None:
        return _prune_groups(model, plan, config, inputs, _batches(model, inputs, data), loss)
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
    found = find_plan(pruned, inputs, DeadChannels(effective_weights(pruned)))
    return _thinned(pruned, masks, found, report, inputs, config)


def check_evidence(config: PruneConfig, example_inputs: Any, data: Any, loss: Loss | None) -> None:
    """Refuse a criterion that is unknown, or that needs what was not given."""
    rule = registered(config.rule.criterion)
    if rule.needs_data and data is None and loss is None:
        raise ConfigError(
            f"The criterion {rule.name!r} of prune needs data. Give data=[...] (on the command line --data), "
            "or choose one that looks at weights, such as l1."
        )
    if rule.needs_data and example_inputs is None:
        raise ConfigError(
            f"The criterion {rule.name!r} of prune needs example_inputs: values are followed through one run of the "
            "model. Give a tensor, a tuple or a dict (on the command line --input-shape)."
        )


def _batches(model: nn.Module, inputs: Inputs, data: Any) -> tuple[Inputs, ...]:
    """Return the user's data, checked, on the model's device; nothing when there are none."""
    if data is None:
        return ()
    return tuple(on_device_of(model, batch) for batch in calibration(data, like=inputs).batches)


def scan_with(
    model: nn.Module,
    config: PruneConfig,
    example_inputs: Any,
    how: Callable[[tuple[Inputs, ...]], Scan],
    *,
    data: Any = None,
    loss: Loss | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure what each group costs that `config` would prune; see `sensitivity`. how: batches -> how to scan."""
    check_model(model, "sensitivity")
    check_evidence(config, example_inputs, data, loss)
    plan = find_targets(model, structured=True, weights=config.weights, keep=config.keep, coupled=True)
    check_values(model, {target.name for target in plan.targets})
    inputs = on_device_of(model, as_inputs(example_inputs))
    batches = _batches(model, inputs, data)
    decide = _by_importance(model, plan, config, batches, loss)
    return scanned(decide, inputs, how(batches or (inputs,)), progress)


def _by_importance(
    model: nn.Module, plan: TargetPlan, config: PruneConfig, batches: tuple[Inputs, ...], loss: Loss | None
) -> ByImportance:
    evidence = None
    if registered(config.rule.criterion).needs_data:
        evidence = Measure(model, batches, plan.computed, loss, config.seed)
    return ByImportance(
        model,
        plan.targets,
        frozenset(plan.kept),
        planned_sparsities(config)[-1],
        config.scope,
        config.rule.criterion,
        tuple(name for name in config.weights or () if any(sign in name for sign in "*?[")),
        plan.computed,
        keep_at_least=config.floor,
        measure=evidence,
        seed=config.seed,
    )


def _fallen_back(ranking: Ranking | None, criterion: str) -> tuple[str, ...]:
    """Say which groups the criterion could not rank."""
    if ranking is None or not ranking.fallen_back:
        return ()
    names = ranking.fallen_back
    listed = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
    return (
        f"{len(names)} of {len(ranking.scores)} groups have nothing that {criterion} looks at; {FALLBACK} ranks them: {listed}.",
    )


def _prune_groups(
    model: nn.Module,
    plan: TargetPlan,
    config: PruneConfig,
    inputs: Inputs,
    batches: tuple[Inputs, ...],
    loss: Loss | None,
) -> PruneResult:
    """Prune by groups: what is masked can be thinned, and a trial has shown it."""
    planned = planned_sparsities(config)
    decide = _by_importance(model, plan, config, batches, loss)
    if config.chip is not None:
        decide = by_chip(decide, inputs, chip_named(config.chip), config.goals)
    if config.budgets:
        table = _table(decide, config, inputs, batches)
        decide = by_budget(decide, config.budgets, measure(model, inputs))
        if table is not None:
            decide = by_allocation(decide, table)
        found, cost = plan_within(model, inputs, decide)
    else:
        found = find_plan(model, inputs, decide)
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
            *silenced_biases(found),
            *filter(None, [found.proposal.labels.graph.note, found.outcome.note]),
        ),
    )
    if isinstance(decide, ByChip):
        report = replace(report, chip=decide.change)
    if isinstance(decide, ByBudget):
        report = replace(report, budgets=budget_facts(decide, cost))
    if not config.thin:
        return PruneResult(masked, zeroed, report, found.recipe or None, found.outcome.proof, config)
    return _thinned(masked, zeroed, found, report, inputs, config)


def _table(
    decide: ByImportance, config: PruneConfig, inputs: Inputs, batches: tuple[Inputs, ...]
) -> Sensitivity | None:
    """Return what says how to spread a budget over the groups, None where all lose the same share."""
    if config.allocation is None:
        return None
    if config.allocation != "auto":
        return read_table(config.allocation)
    return scanned(replace(decide, target_sparsity=DEFAULT_SPARSITY), inputs, Scan(batches or (inputs,)))


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
    """Return what the target stands for, per weight and in all: what balances round off is not asked, nor what is frozen."""
    groups = [group for group in groups if group.name in keeps]
    asked = dict.fromkeys(masks, 0)
    total = 0
    for group in groups:
        gone = int((~keeps[group.name]).sum())
        exact = bool(group.balances) or config.chip is not None or bool(config.budgets)
        count = gone if exact else prune_count(config.target_sparsity, group.size)
        total += count
        for member in group.members:
            if axes.get(member.parameter) == member.axis and member.parameter in asked:
                lost = member.of(keeps[group.name]).size
                asked[member.parameter] += (
                    lost if config.scope == "global" or exact else count * member.indices.shape[1]
                )
    filters = {name: Filters(axes[name], 1, asked[name]) for name in asked}
    if config.scope == "global":
        return filters, prune_count(config.target_sparsity, sum(group.size for group in groups))
    return filters, sum(asked.values())


def _silenced(biases: list[str]) -> tuple[str, ...]:
    if not biases:
        return ()
    listed = f"{', '.join(biases[:4])}{', ...' if len(biases) > 4 else ''}"
    return (
        f"The biases of hidden states that go are masked with them (they would keep the states moving): {listed}.",
    )


def frozen_targets(found: Plan, axes: Mapping[str, int], masks: Iterable[str]) -> tuple[str, ...]:
    """Say why filters of the masked weights stay."""
    masks = set(masks)
    frozen = found.proposal.grouping.groups.frozen
    return tuple(
        f"{item.parameter}: {item.count} filters stay, {item.reason}."
        for item in frozen
        if item.parameter in masks and axes.get(item.parameter) == item.axis
    )


def _thinned(
    masked: nn.Module,
    masks: Mapping[str, Tensor],
    found: Plan,
    report: PruneReport,
    inputs: Inputs,
    config: PruneConfig,
) -> PruneResult:
    """Remove what is masked from the masked copy, and add to the report what that brought."""
    before = measure(masked, inputs)
    if found.recipe:
        apply_(masked, found.recipe, values=folded_values(masked, found))
    after = measure(masked, inputs)
    removed = (
        () if found.recipe else ("Nothing was removed: the masks leave no whole channel dead that can go.",)
    )
    report = replace(
        report,
        notes=(*report.notes, *removed, *rescaled_layers(found)),
        macs=before.macs,
        thinned_parameters=after.parameters,
        thinned_parameter_bytes=after.parameter_bytes,
        thinned_macs=after.macs,
        proof=found.outcome.proof,
        inexact=inexact_layers(found),
    )
    return PruneResult(masked, masks, report, found.recipe or None, found.outcome.proof, config)


def prune(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    method: str = "agp-structured",
    target_sparsity: float | None = None,
    agp_steps: int = 10,
    weights: Iterable[str] | None = None,
    keep: Iterable[str] | None = None,
    compat: str | None = None,
    backend: str | None = None,
    thin: bool = False,
    scope: str = "group",
    chip: str | None = None,
    target_cycles: str | int | None = None,
    target_kernel_words: str | int | None = None,
    fit: bool = False,
    criterion: str | None = None,
    seed: int = 0,
    keep_at_least: float | None = None,
    target_params: str | int | None = None,
    target_macs: str | int | None = None,
    allocation: str | None = None,
    pattern: str | None = None,
    data: Any = None,
    loss: Loss | None = None,
) -> PruneResult:
    """Return a pruned copy of `model`; the model itself is left as it is.

    Structured methods mask ``floor(target_sparsity * n)`` whole filters of every layer (all layers together
    with ``scope="global"``), ``agp-unstructured`` that share of the single weights; ties go by index. Only
    weights are set to zero: biases and BatchNorm keep their values. (The biases of recurrent hidden states that go are
    masked too, since they would keep them moving, and those of channels whose constant no layer could take over when
    they are removed; a note of the report names them.) AGP (Zhu & Gupta 2017) grows the sparsity over `agp_steps`
    virtual steps; the steps change the outcome only where training runs between them.

    example_inputs: a tensor, a tuple of positional or a dict of keyword arguments of the model. With them,
    structured methods decide per group of coupled layers, keep output layers, and what they mask can be
    thinned; without them every weight is ranked alone. method: a key of `METHODS`. target_sparsity: in [0, 1), by
    default 0.5.
    weights: names that replace the default targets (convolutions; for unstructured also linear layers).
    keep: fnmatch patterns of weight or module names to keep whole, such as output layers.
    compat: "distiller" for Distiller's masks bit for bit, overshoot and ties included. backend: "distiller" to have
    these made by the Distiller that is installed.
    thin: remove what is masked, and prove the result (needs example_inputs). scope: "group" or "global".
    chip: MAX78000 or MAX78002; channels then go where they save most there for their importance, until the
    chip's targets hold, and at least a given target_sparsity of all channels: target_cycles and target_kernel_words (of the
    deepest processor) as a share ("0.6x") or a number, fit=True for the network to fit.
    criterion: what ranks channels or weights, such as l2, fpgm, bn-scale, lamp, random; with data also taylor and
    activation (all in docs/methods.md). target_params, target_macs: the most that the thinned model may have, as a share
    ("0.4x") or a number, either or both: the least sparsity that reaches them is found, and channels are given back as
    long as they hold (and a given target_sparsity, of every group or over all).
    allocation: a file of `torchthin sensitivity`, or "auto": the budget is spread over the groups so that the losses measured
    there add up to the least, instead of the same share of every group.
    pattern: n:m for nm-unstructured: n of every m weights side by side along the input dimension stay ("2:4" by default).
    seed: of random numbers that criteria draw. keep_at_least: share of every group
    that stays with scope="global". data: inputs without labels: a tensor, a loader, a file or
    a folder, as `torchthin.calibration.calibration` takes them. loss: for taylor, a function of the model that yields a
    loss per batch of the user's own data; None: the model's own outputs on `data` decide.

    Raises `InputError` (also a ValueError): `ConfigError` for bad arguments, `WeightNameError` for weight
    names, and for models with nothing to prune, with NaN, without values, or that cannot be copied.

    >>> result = prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), keep=["2"])
    >>> {name: int(mask.flatten(1).all(1).sum()) for name, mask in result.masks.items()}
    {'0.weight': 4}
    """
    config = PruneConfig(
        method=method,
        target_sparsity=target_sparsity,  # type: ignore[arg-type]
        agp_steps=agp_steps,
        weights=None if weights is None else weights,  # type: ignore[arg-type]
        keep=() if keep is None else keep,  # type: ignore[arg-type]
        compat=compat,
        backend=backend,
        thin=thin,
        scope=scope,
        chip=chip,
        target_cycles=None if target_cycles is None else str(target_cycles),
        target_kernel_words=None if target_kernel_words is None else str(target_kernel_words),
        fit=fit,
        criterion=criterion,
        seed=seed,
        keep_at_least=keep_at_least,
        target_params=None if target_params is None else str(target_params),
        target_macs=None if target_macs is None else str(target_macs),
        allocation=allocation,
        pattern=pattern,
    )
    return prune_with(model, config, example_inputs, data=data, loss=loss)
