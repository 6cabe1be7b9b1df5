"""From a model and a target to a plan: what `prune` and `plan` do. The caller's model is only looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from torchthin.config import Budget, Distiller, PruneConfig, Ratio, Recovery, Target
from torchthin.dependency.kinds import multiplies_data
from torchthin.errors import ConfigError
from torchthin.evaluation.results import Progress
from torchthin.graph.better_examples import trace_more
from torchthin.graph.inputs import Inputs, as_inputs, check_model, on_device_of
from torchthin.graph.own_example import own_example
from torchthin.graph.trace import Traced, trace
from torchthin.importance.registry import criterion as registered
from torchthin.importance.scores import check_values
from torchthin.importance.statistics import Loss
from torchthin.io.calibration import Calibration, calibration
from torchthin.pruning.expert_plans import KIND as EXPERTS
from torchthin.pruning.latency_plan import idle_cut
from torchthin.pruning.layers import for_the_rest, layers_of, shortened
from torchthin.pruning.per_weight import by_layer_inputs, plan_per_weight
from torchthin.pruning.plan import PruningPlan
from torchthin.pruning.pretrained.describable import plan_described
from torchthin.pruning.selection_notes import (
    asked_of_groups,
    fallen_back,
    frozen_targets,
    spared,
    state_biases,
    with_blocked,
)
from torchthin.pruning.target_plans import Run
from torchthin.report.from_masks import build_report
from torchthin.report.prune_report import Request
from torchthin.report.sections import Section
from torchthin.selection.kernel_widths import default_multiple
from torchthin.selection.prunable_weights import PrunableWeights, find_prunable_weights
from torchthin.selection.schedule import planned_sparsities
from torchthin.thinning.search.trial_loop import ThinningPlan, masked_makers, notes_on


def plan_pruning(
    model: nn.Module,
    example_inputs: Any,
    config: PruneConfig,
    *,
    data: Any = None,
    loss: Loss | None = None,
    learns: bool = False,
    recovery: Recovery | None = None,
    progress: Progress | None = None,
) -> PruningPlan:
    """Decide what is removed from `model`, and prove on copies that it can be; see `torchthin.plan`.

    learns: with data and no criterion, channels are chosen by `reconstruction` (with noise that fits no model by
        l1), and the plan's model is refitted to the data.
    recovery: how the plan's model is recovered from the data, whatever ranked the channels; None: see `learns`.
    progress: called with the number of layer times that are measured and of all, where a latency is asked for.
    """
    check_model(model, "prune")
    if recovery is not None:
        check_recovered(config, data)
    inputs = _inputs(model, example_inputs, config)
    if config.structured and not isinstance(config.target, Distiller):
        check_criterion(config, inputs, data, loss)
    if by_layer_inputs(config):
        return _plan_by_layer(model, inputs, config, data)
    if inputs is None or not config.structured or isinstance(config.target, Distiller):
        return plan_per_weight(model, inputs, config)
    if layers_of(config) is not None:
        return _plan_with_layers(model, inputs, config, data, loss, learns=learns, recovery=recovery)
    traced, targets = traced_targets(model, inputs, config)
    learns = learns and _learns(config, loss)
    given = _calibration(model, inputs, config, data, learns=learns, recovery=recovery)
    refit = given if learns else None
    ranks = refit is not None and not refit.is_noise
    config = replace(config, criterion=LEARNT) if ranks else config
    config, rounded = at_kernel_widths(config, traced, targets)
    run = Run(traced, targets, config, batches_of(model, given), loss, progress)
    thinning, sections, undescribed = plan_described(run)
    plan = replace(_plan(traced, targets, config, thinning, sections), inputs=inputs)
    untold = given is not None and given is not data and refit is None and recovery is None
    told = given.notes if given is not None and untold else ()  # a recovery tells them itself
    chosen = (_LEARNS,) if ranks else _unused(config, data)
    notes = chosen + told + rounded + undescribed + _idle(config, traced, thinning)
    return replace(
        plan,
        refit=refit if recovery is None else given,
        recovery=recovery or Recovery(),
        report=replace(plan.report, notes=(*notes, *plan.report.notes)),
    )


def _calibration(
    model: nn.Module,
    inputs: Inputs,
    config: PruneConfig,
    data: Any,
    *,
    learns: bool,
    recovery: Recovery | None,
) -> Calibration | None:
    """Read the data; noise is fitted to the model only where something is learnt from it. learns: it is refitted."""
    if data is None:
        return None
    used = learns or recovery is not None or _chooses_by_data(config)
    how = recovery or Recovery()
    return calibration(
        data, like=inputs, max_samples=how.max_samples, pixels=how.pixels, model=model if used else None
    )


LEARNT = "reconstruction"
"""The criterion where data were given and nothing else was asked for."""
_LEARNS = (
    "Channels were chosen by reconstruction from the calibration inputs; criterion='l1' (--criterion l1) looks at weights "
    "alone."
)


def check_recovered(config: PruneConfig, data: Any) -> None:
    """Raise `ConfigError` where nothing is given or thinned that a recovery works on."""
    if data is None or not config.thin or not config.structured or isinstance(config.target, Distiller):
        raise ConfigError(
            "The recovery needs data, thin=True, and a target that removes channels: Ratio, Budget or Chip."
        )


def _chooses_by_data(config: PruneConfig) -> bool:
    """Whether the criterion or the allocation looks at data."""
    return getattr(config.target, "allocation", None) is not None or registered(config.ranked_by).needs_data


def _unused(config: PruneConfig, data: Any) -> tuple[str, ...]:
    """Say that data were given which nothing looks at."""
    if data is None or config.thin or _chooses_by_data(config):
        return ()
    return (
        f"The data chose no channels: without thinning they are ranked by {config.ranked_by}, which looks at weights alone. "
        "Thin the model (--thin), or give a criterion that uses data (--criterion reconstruction).",
    )


def _learns(config: PruneConfig, loss: Loss | None) -> bool:
    """Whether nothing was said about how channels are ranked, and they can be ranked by the data."""
    experts = isinstance(config.target, Ratio) and EXPERTS in config.target.by_kind
    usual = isinstance(config.target, Ratio | Budget) and not experts
    return usual and config.criterion is None and config.thin and loss is None


def _plan_by_layer(model: nn.Module, inputs: Inputs | None, config: PruneConfig, data: Any) -> PruningPlan:
    """Return a plan of single weights that are ranked by the inputs of their layers."""
    check_data(config.ranked_by, inputs, data)
    assert inputs is not None
    found = calibration(data, like=inputs, model=model)
    return plan_per_weight(model, inputs, config, found)


def _plan_with_layers(
    model: nn.Module,
    inputs: Inputs,
    config: PruneConfig,
    data: Any,
    loss: Loss | None,
    *,
    learns: bool,
    recovery: Recovery | None,
) -> PruningPlan:
    """Leave layers out first, and plan the rest on the model without them."""
    read = _calibration(model, inputs, config, data, learns=True, recovery=recovery)
    batches = None if read is None else replace(read, batches=_on_device(model, read.batches))
    cut = shortened(model, inputs, config, batches)
    target = config.target
    assert isinstance(target, Ratio)
    rest = target.without_layers
    if rest is None:
        report = build_report(model, {}, {}, Request.of(config, 0.0, (), ()), 0)
        plan = PruningPlan(cut.model, config, {}, report, None, inputs)
    else:
        asked = for_the_rest(cut, config, rest)
        plan = plan_pruning(cut.model, inputs, asked, data=batches, loss=loss, learns=learns)
        report = plan.report
    learns = learns and batches is not None and _learns(config, loss)
    report = replace(
        report,
        request=replace(report.request, by_kind=tuple(target.by_kind.items())),
        parameters=sum(p.numel() for p in model.parameters()),
        parameter_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        sections=(cut.facts, *report.sections),
    )
    return replace(
        plan,
        config=config,
        report=report,
        shortened=cut,
        refit=batches if learns or recovery else None,
        recovery=recovery or Recovery(),
    )


def traced_targets(model: nn.Module, inputs: Inputs, config: PruneConfig) -> tuple[Traced, PrunableWeights]:
    """Return the record of a model and the weights whose channels `config` asks to prune.

    Raises:
        InputError: the model does not run on the inputs, has nothing to prune, or weights without usable values.
    """
    traced = trace(model, inputs) if _priced(config.target) else trace_more(model, inputs)
    targets = find_prunable_weights(
        model,
        structured=True,
        include=config.include,
        exclude=config.exclude,
        derived=traced.derived,
        coupled=True,
        by_kind=config.target.asks_by_kind,
        attention=multiplies_data(traced.graph),
    )
    check_values(model, {target.name for target in targets.targets})
    return traced, targets


def _idle(config: PruneConfig, traced: Traced, thinning: ThinningPlan) -> tuple[str, ...]:
    """Return the note that the cut saves no time, where the device is one on which that is looked at."""
    timed = isinstance(config.target, Budget) and config.target.latency is not None  # its section says it
    return idle_cut(traced, thinning) if config.thin and not timed else ()


def at_kernel_widths(
    config: PruneConfig, traced: Traced, targets: PrunableWeights
) -> tuple[PruneConfig, tuple[str, ...]]:
    """Return the run with the `round_to` that the model's device wants where nobody said one, and the note on it.

    On the CPU nothing changes, nor where experts are cut, of which no kernel wants a multiple.
    """
    target = config.target
    if not isinstance(target, Ratio | Budget) or target.round_to is not None:
        return config, ()
    if isinstance(target, Ratio) and EXPERTS in target.by_kind:
        return config, ()
    widths = [traced.tensors[each.name].shape[each.axis] for each in targets.targets]
    multiple = default_multiple(traced.model, widths)
    if multiple == 1:
        return config, ()
    note = (
        f"Cut layers keep multiples of {multiple} channels, as the kernels of a GPU want; round_to=1 "
        "(--round-to 1) cuts to the channel."
    )
    return replace(config, target=replace(target, round_to=multiple)), (note,)


def _priced(target: Target) -> bool:
    """Whether a target asks for costs at the size of the example, which must not be another one then."""
    return bool(target.needs_inputs) and not (
        isinstance(target, Budget) and target.macs is None and target.latency is None
    )


def _inputs(model: nn.Module, example_inputs: Any, config: PruneConfig) -> Inputs | None:
    """Return the example inputs on the model's device; None where there are none and none are needed.

    Raises:
        ConfigError: they are needed.
    """
    why = config.target.needs_inputs
    if example_inputs is None and by_layer_inputs(config):
        example_inputs = own_example(model)
    if config.thin and config.structured and not isinstance(config.target, Distiller):
        example_inputs = own_example(model) if example_inputs is None else example_inputs
        why = why or "channels are followed through one run of the model; thin=False masks without them"
    if config.target.asks_by_kind:
        why = why or "what channels are follows from one run of the model"
    if example_inputs is None and why:
        raise ConfigError(
            f"The example_inputs are needed for {type(config.target).__name__}: {why}. "
            "Give a tensor, a tuple or a dict (on the command line --input-shape 1,3,224,224 or --dataset)."
        )
    return None if example_inputs is None else on_device_of(model, as_inputs(example_inputs))


def check_criterion(config: PruneConfig, inputs: Any, data: Any, loss: Loss | None = None) -> None:
    """Refuse a criterion that is unknown, or that needs what was not given.

    Raises:
        ConfigError: it does.
    """
    if registered(config.ranked_by).needs_data:
        check_data(config.ranked_by, inputs, data if loss is None else loss)


def check_data(criterion: str, inputs: Any, data: Any) -> None:
    """Refuse a criterion that needs data without data, or without example inputs.

    Raises:
        ConfigError: something is missing.
    """
    if data is None:
        raise ConfigError(
            f"The criterion {criterion!r} needs data. Give data=[...] (on the command line --data), "
            "or choose one that looks at weights, such as l1 (of single weights: magnitude)."
        )
    if inputs is None:
        raise ConfigError(
            f"The criterion {criterion!r} needs example_inputs: values are followed through one run of the "
            "model. Give a tensor, a tuple or a dict (on the command line --input-shape)."
        )


def batches_of(model: nn.Module, data: Calibration | None) -> tuple[Inputs, ...]:
    """Return the user's data on the model's device; nothing when there are none."""
    return () if data is None else _on_device(model, data.batches)


def _on_device(model: nn.Module, batches: Iterable[Inputs]) -> tuple[Inputs, ...]:
    return tuple(on_device_of(model, batch) for batch in batches)


def _plan(
    traced: Traced,
    targets: PrunableWeights,
    config: PruneConfig,
    thinning: ThinningPlan,
    sections: tuple[Section, ...],
) -> PruningPlan:
    selection = thinning.proposal.selection
    masks = selection.masks
    ranked = {name: mask for name, mask in masks.items() if name in selection.masked_axes}
    filters, asked = asked_of_groups(selection, config, ranked)
    filters, blocked = with_blocked(filters, thinning, config)
    asked += blocked
    share = config.target.share if config.target.exact else selection.share_removed
    schedule = planned_sparsities(config) if config.target.exact else (share,)
    zeroed = selection.all_masks
    report = build_report(
        traced.model,
        zeroed,
        filters,
        Request.of(config, share, schedule, targets.excluded),
        asked,
        notes=(
            *filter(None, [thinning.proposal.traced.graph.note, thinning.outcome.note]),
            *targets.notes_on(name for name, mask in ranked.items() if not bool(mask.all())),
            *spared(selection),
            *fallen_back(selection.ranking, config.ranked_by),
            *frozen_targets(thinning, selection.masked_axes, ranked),
            *state_biases([name for name in masks if name not in selection.masked_axes]),
            *masked_makers(thinning),
            *(notes_on(traced.model, thinning) if config.thin else ()),
        ),
        sections=sections,
    )
    return PruningPlan(traced.model, config, zeroed, report, thinning, traced.inputs)
