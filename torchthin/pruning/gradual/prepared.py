"""The start of a gradual run: what could go, found once, with a trial of the recipe at the end of the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from torchthin.config import PruneConfig, Target
from torchthin.errors import ConfigError
from torchthin.graph.inputs import Inputs
from torchthin.graph.trace import Traced
from torchthin.importance.registry import criterion as registered
from torchthin.importance.statistics import Loss
from torchthin.importance.values import check_values
from torchthin.io.distributed import require_equal
from torchthin.pruning.gradual.channels import Channels, Chosen
from torchthin.pruning.gradual.evidence import Evidence
from torchthin.pruning.gradual.mask_state import Growth
from torchthin.pruning.gradual.sharding import is_sharded
from torchthin.pruning.gradual.weights import Weights
from torchthin.pruning.one_shot import batches_of, check_criterion, frozen_targets, traced_targets
from torchthin.selection.channels import select_channels
from torchthin.selection.selection import Keeps
from torchthin.selection.selectors import Candidates, ImportanceSelector
from torchthin.selection.targets import Targets, find_targets
from torchthin.thinning.plan import find_plan

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Beginning:
    """What is known before the first step."""

    growth: Growth
    kept: tuple[str, ...]
    """Weights kept whole on request."""
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


def begin(
    model: nn.Module, config: PruneConfig, inputs: Inputs | None, data: Any = None, loss: Loss | None = None
) -> Beginning:
    """Find targets and groups.

    Args:
        model: the user's own model, full size.
        config: what is asked for at the end.
        inputs: example inputs on the model's device; needed for structured methods.
        data, loss: for criteria that need data; see `Pruner`.

    Raises:
        ConfigError: what is asked for needs something else.
        InputError: the model has nothing to prune, or does not run.
        ProofError: no way to thin it was found.
    """
    _refuse(model, config, inputs)
    if not config.structured or inputs is None:
        targets = find_targets(model, structured=False, include=config.include, exclude=config.exclude)
        check_values(model, {target.name for target in targets.targets})
        return Beginning(Weights.of(targets.targets, model), targets.excluded, targets.notes)
    check_criterion(config, inputs, data, loss)
    traced, targets = traced_targets(model, inputs, config)
    evidence = None
    if registered(config.ranked_by).needs_data:
        evidence = Evidence(batches_of(model, inputs, data), loss)
    return _begin_channels(traced, targets, config, evidence)


def _refuse(model: nn.Module, config: PruneConfig, inputs: Inputs | None) -> None:
    config.target.at(config.target.share)  # refuses targets whose masks cannot grow
    if config.structured and inputs is None:
        raise ConfigError(
            "The example_inputs of Pruner are needed to remove channels: they are followed through one run "
            "of the model. Give a tensor, a tuple or a dict."
        )
    sharded = next((name for name, p in model.named_parameters() if is_sharded(p)), None)
    if sharded is not None:
        raise ConfigError(
            f"The model of Pruner must not be sharded yet: {sharded} is. "
            "Make the Pruner first, then shard the model, then pruner.attach_(optimizer)."
        )


@dataclass(frozen=True)
class _EverywhereRule:
    """The rule for the trial: something is removed from every group from which anything may be removed later."""

    target: Target

    def choose(self, among: Candidates) -> tuple[Keeps, None]:
        """Return the selection at the end of the schedule, with one channel at least of every group."""
        found: dict[str, BoolArray] = {}
        for group in among.groups:
            some = min(1.5 / group.size, 1 - 1e-9) if self.target.scope == "global" and group.size else 0.0
            found |= select_channels([group], among.scores, max(self.target.share, some))
        return found, None


def _begin_channels(
    traced: Traced, targets: Targets, config: PruneConfig, evidence: Evidence | None
) -> Beginning:
    model = traced.model
    statistics = None if evidence is None else evidence.measure(model, traced.derived, config)
    rule = _EverywhereRule(config.target)
    select = ImportanceSelector(model, targets, rule, config.ranked_by, statistics, config.seed)
    found = find_plan(traced, select)
    selection = found.proposal.selection
    chosen = Chosen(selection.groups, selection.axes, selection.targets)
    growth = Channels.of(chosen, frozenset(selection.masked_biases), traced.derived, evidence)
    if evidence is not None:
        growth.ranking(model, config)  # a criterion that no step can take is refused now
    device = next(model.parameters()).device
    require_equal("groups of channels", growth.parts(), device)
    notes = (
        *targets.notes,
        *frozen_targets(found, selection.masked_axes, growth.masks(model)),
        *filter(None, [traced.graph.note, found.outcome.note]),
    )
    return Beginning(growth, targets.excluded, notes)
