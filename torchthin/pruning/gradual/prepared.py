"""The start of a gradual run: what could go, found once, with a trial of the recipe at the end of the schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from torchthin.config import PruneConfig
from torchthin.dependency.groups import Group
from torchthin.errors import ConfigError
from torchthin.graph.inputs import Inputs
from torchthin.graph.trace import trace
from torchthin.importance.registry import criterion as registered
from torchthin.importance.statistics import Loss
from torchthin.importance.values import check_values
from torchthin.io.distributed import require_equal
from torchthin.pruning.by_group import frozen_targets
from torchthin.pruning.evidence import batches_of, check_evidence
from torchthin.pruning.gradual.channels import Channels
from torchthin.pruning.gradual.evidence import Evidence
from torchthin.pruning.gradual.mask_state import Growth
from torchthin.pruning.gradual.sharding import is_sharded
from torchthin.pruning.gradual.weights import Weights
from torchthin.selection.channels import select_channels
from torchthin.selection.selectors import ByImportance
from torchthin.selection.targets import TargetPlan, find_targets
from torchthin.thinning.plan import find_plan

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


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
    structured = config.rule.structured
    if structured:
        check_evidence(config, inputs, data, loss, of="Pruner")
    plan = find_targets(
        model, structured=structured, weights=config.weights, keep=config.keep, coupled=structured
    )
    check_values(model, {target.name for target in plan.targets})
    if inputs is None or not structured:
        return Beginning(Weights.of(plan.targets, model), plan.kept, plan.notes)
    evidence = None
    if registered(config.rule.criterion).needs_data:
        evidence = Evidence(batches_of(model, inputs, data), loss)
    return _begin_channels(model, config, inputs, plan, evidence)


def _refuse(model: nn.Module, config: PruneConfig, inputs: Inputs | None) -> None:
    if config.compat is not None:
        raise ConfigError(
            f"The compat of Pruner must be None: masks that grow never shrink. Got {config.compat!r}; "
            "use torchthin.prune for Distiller's masks of one step."
        )
    if config.blocks is not None:
        raise ConfigError(
            f"The method of Pruner must be one whose masks grow. Got {config.method!r}; use torchthin.prune for n:m masks."
        )
    if config.chip is not None:
        raise ConfigError(
            f"The chip of Pruner must be None: give a target_sparsity. Got {config.chip!r}; torchthin.prune chooses "
            "channels for a chip."
        )
    if config.budgets:
        raise ConfigError(
            "The target_params and target_macs of Pruner must be None: give a target_sparsity. "
            "torchthin.prune reaches budgets."
        )
    if config.rule.structured and inputs is None:
        raise ConfigError(
            f"The example_inputs of Pruner are needed for {config.method}: channels are followed through one run "
            "of the model. Give a tensor, a tuple or a dict."
        )
    sharded = next((name for name, p in model.named_parameters() if is_sharded(p)), None)
    if sharded is not None:
        raise ConfigError(
            f"The model of Pruner must not be sharded yet: {sharded} is. "
            "Make the Pruner first, then shard the model, then pruner.attach_(optimizer)."
        )


class _Everywhere(ByImportance):
    """A decision for the trial: something goes from every group from which anything may go later."""

    def select(self, groups: Sequence[Group], scores: Mapping[str, FloatArray]) -> dict[str, BoolArray]:
        """Return the selection at the end of the schedule, with one channel at least of every group."""
        found: dict[str, BoolArray] = {}
        for group in groups:
            some = min(1.5 / group.size, 1 - 1e-9) if self.scope == "global" and group.size else 0.0
            found |= select_channels([group], scores, max(self.target_sparsity, some))
        return found


def _begin_channels(
    model: nn.Module, config: PruneConfig, inputs: Inputs, plan: TargetPlan, evidence: Evidence | None
) -> Beginning:
    patterns = tuple(name for name in config.weights or () if any(sign in name for sign in "*?["))
    decide = _Everywhere(
        model,
        plan.targets,
        frozenset(plan.kept),
        config.target_sparsity,
        config.scope,
        config.rule.criterion,
        patterns,
        plan.derived,
        measure=None if evidence is None else evidence.measure(model, plan.derived, config),
        seed=config.seed,
    )
    found = find_plan(trace(model, inputs), decide)
    assert decide.chosen is not None
    silenced = frozenset(found.proposal.decision.silenced)
    growth = Channels.of(decide.chosen, silenced, plan.derived, evidence)
    if evidence is not None:
        growth.ranking(model, config)  # a criterion that no step can take is refused now
    device = next(model.parameters()).device
    require_equal("groups of channels", growth.parts(), device)
    notes = (
        *plan.notes,
        *frozen_targets(found, decide.axes, growth.masks(model)),
        *filter(None, [found.proposal.labels.graph.note, found.outcome.note]),
    )
    return Beginning(growth, plan.kept, notes)
