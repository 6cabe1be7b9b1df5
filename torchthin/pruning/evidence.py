"""What ranks the channels: the criterion, and the user's data where it needs any."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchthin.config import PruneConfig
from torchthin.errors import ConfigError
from torchthin.graph.inputs import Inputs, on_device_of
from torchthin.importance.registry import criterion as registered
from torchthin.importance.statistics import Loss, Measure
from torchthin.io.calibration import calibration
from torchthin.pruning.counts import planned_sparsities
from torchthin.selection.selectors import ByImportance
from torchthin.selection.targets import TargetPlan


def check_evidence(
    config: PruneConfig, example_inputs: Any, data: Any, loss: Loss | None = None, of: str = "prune"
) -> None:
    """Refuse a criterion that is unknown, or that needs what was not given. of: whose criterion it is."""
    rule = registered(config.rule.criterion)
    if rule.needs_data and data is None and loss is None:
        raise ConfigError(
            f"The criterion {rule.name!r} of {of} needs data. Give data=[...] (on the command line --data), "
            "or choose one that looks at weights, such as l1."
        )
    if rule.needs_data and example_inputs is None:
        raise ConfigError(
            f"The criterion {rule.name!r} of {of} needs example_inputs: values are followed through one run of the "
            "model. Give a tensor, a tuple or a dict (on the command line --input-shape)."
        )


def batches_of(model: nn.Module, inputs: Inputs, data: Any) -> tuple[Inputs, ...]:
    """Return the user's data, checked, on the model's device; nothing when there are none."""
    if data is None:
        return ()
    return tuple(on_device_of(model, batch) for batch in calibration(data, like=inputs).batches)


def by_importance(
    model: nn.Module,
    plan: TargetPlan,
    config: PruneConfig,
    batches: tuple[Inputs, ...],
    loss: Loss | None = None,
) -> ByImportance:
    """Return the decision by importance that `config` asks for; it has yet to see groups."""
    evidence = None
    if registered(config.rule.criterion).needs_data:
        evidence = Measure(model, batches, plan.derived, loss, config.seed)
    return ByImportance(
        model,
        plan.targets,
        frozenset(plan.kept),
        planned_sparsities(config)[-1],
        config.scope,
        config.rule.criterion,
        tuple(name for name in config.weights or () if any(sign in name for sign in "*?[")),
        plan.derived,
        keep_at_least=config.floor,
        measure=evidence,
        seed=config.seed,
        round_to=config.round_to,
    )
