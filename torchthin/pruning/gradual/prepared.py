"""What is known before the first step: what can be pruned, found once, with a trial of the recipe at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from torchthin.config import PruneConfig, Target
from torchthin.dependency.groups import Group
from torchthin.errors import ConfigError
from torchthin.graph.inputs import Inputs, as_inputs, on_device_of
from torchthin.graph.own_example import own_example
from torchthin.graph.trace import Traced
from torchthin.importance.registry import criterion as registered
from torchthin.importance.scores import check_values
from torchthin.importance.statistics import Loss
from torchthin.io.calibration import calibration
from torchthin.io.distributed import require_equal
from torchthin.pruning.gradual.channels import ChannelMasks
from torchthin.pruning.gradual.mask_state import MaskState
from torchthin.pruning.gradual.sharding import is_sharded
from torchthin.pruning.gradual.weights import WeightMasks
from torchthin.pruning.one_shot import (
    at_kernel_widths,
    batches_of,
    check_criterion,
    traced_targets,
)
from torchthin.pruning.per_weight import by_layer_inputs
from torchthin.pruning.selection_notes import frozen_targets
from torchthin.pruning.target_plans import Run
from torchthin.selection.channels import select_channels
from torchthin.selection.prunable_weights import PrunableWeights, find_prunable_weights
from torchthin.selection.schedule import SparsitySchedule, sparsity_schedule
from torchthin.selection.selection import BoolArray, Keeps
from torchthin.selection.selectors import Candidates


@dataclass(frozen=True)
class Prepared:
    """What a run needs to know, and what does not change while it goes on."""

    config: PruneConfig
    """What is asked for at the end."""
    schedule: SparsitySchedule
    inputs: Inputs | None
    """Example inputs; None: single weights are masked, and nothing can be removed."""
    masks: MaskState
    """Before the first step."""
    excluded: tuple[str, ...]
    """Weights excluded on request."""
    notes: tuple[str, ...]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the user's own model inside what wraps it: data parallel, averaged, compiled."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel | AveragedModel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def prepare(
    model: nn.Module, example_inputs: Any, config: PruneConfig, data: Any = None, loss: Loss | None = None
) -> Prepared:
    """Find targets and groups.

    Args:
        model: the user's own model, full size.
        example_inputs: needed for structured targets; see `Pruner`.
        config: what is asked for at the end; a schedule that is a function replaces its share.
        data, loss: for criteria that need data; see `Pruner`.

    Raises:
        ConfigError: something given cannot be used, or something needed is missing.
        InputError: the model has nothing to prune, or does not run.
        ProofError: no way to thin it was found.
    """
    schedule = sparsity_schedule(config.schedule, config.target.share)
    planned = schedule.planned
    config = replace(config.at(planned[-1]), schedule=replace(config.schedule, steps=len(planned)))
    example = own_example(model) if example_inputs is None else example_inputs
    inputs = None if example is None else on_device_of(model, as_inputs(example))
    _refuse_sharded(model)
    if by_layer_inputs(config):
        raise ConfigError(
            f"The criterion of Pruner must look at weights alone: magnitude, lamp or random. Got {config.ranked_by!r}, which "
            "torchthin.prune takes: it prunes at once and updates what it keeps."
        )
    if not config.structured:
        targets = find_prunable_weights(
            model, structured=False, include=config.include, exclude=config.exclude
        )
        check_values(model, {target.name for target in targets.targets})
        masks = WeightMasks.of(targets.targets, model)
        return Prepared(config, schedule, inputs, masks, targets.excluded, targets.notes)
    if inputs is None:
        raise ConfigError(
            "The example_inputs of Pruner are needed to remove channels: they are followed through one run "
            "of the model. Give a tensor, a tuple or a dict."
        )
    check_criterion(config, inputs, data, loss)
    traced, targets = traced_targets(model, inputs, config)
    config, rounded = at_kernel_widths(config, traced, targets)
    found, notes = _channel_masks(traced, targets, config, data, loss)
    return Prepared(config, schedule, inputs, found, targets.excluded, (*rounded, *notes))


def _refuse_sharded(model: nn.Module) -> None:
    sharded = next((name for name, p in model.named_parameters() if is_sharded(p)), None)
    if sharded is not None:
        raise ConfigError(
            f"The model of Pruner must not be sharded yet: {sharded} is. "
            "Make the Pruner first, then shard the model, then pruner.attach_(optimizer)."
        )


@dataclass(frozen=True)
class _EveryGroupRule:
    """The rule for the trial: something is removed from every group from which anything may be removed later."""

    target: Target

    def choose(self, among: Candidates) -> tuple[Keeps, None]:
        """Return the selection at the end of the schedule, with one channel at least of every group."""
        found: dict[str, BoolArray] = {}
        for group in among.groups:
            one = min(1.5 / group.size, 1 - 1e-9) if self.target.scope == "global" and group.size else 0.0
            asked = among.chosen.shares.get(group.name, self.target.share)
            found |= select_channels([group], among.scores, max(asked, one))
        return found, None


def _channel_masks(
    traced: Traced, targets: PrunableWeights, config: PruneConfig, data: Any, loss: Loss | None
) -> tuple[ChannelMasks, tuple[str, ...]]:
    """Return the state before the first step, and notes."""
    model, inputs = traced.model, traced.given or traced.inputs
    needed = registered(config.ranked_by).needs_data
    given = None if data is None else calibration(data, like=inputs, model=model if needed else None)
    run = Run(traced, targets, config, batches_of(model, given), loss)
    plan = run.plan(_EveryGroupRule(config.target))
    selection = plan.proposal.selection
    masks = ChannelMasks(
        selection.groups,
        selection.axes,
        selection.targets,
        {group.name: np.ones(group.size, np.bool_) for group in selection.groups},
        selection.maker_axes,
        traced.derived,
        run.statistics,
        selection.kinds,
        selection.shares,
    )
    if run.statistics is not None:
        masks.ranking(model, config)  # a criterion that no step can take is refused now
    require_equal("groups of channels", _identity(masks.groups), next(model.parameters()).device)
    notes = (
        *targets.notes,
        *(() if given is None else given.notes),
        *frozen_targets(plan, selection.masked_axes, masks.masks(model)),
        *filter(None, [traced.graph.note, plan.outcome.note]),
    )
    return masks, notes


def _identity(groups: tuple[Group, ...]) -> Iterator[Any]:
    """Yield all that processes must agree in."""
    for group in groups:
        yield group.name, group.size
        for member in group.members:
            yield member.parameter, member.axis
            yield member.indices
