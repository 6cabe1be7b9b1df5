"""From a masked copy to the thinned model, and what that brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.graph.cost import measure
from torchthin.graph.inputs import Inputs
from torchthin.pruning.result import PruneResult
from torchthin.report.pruning import PruneReport
from torchthin.thinning.apply import apply_
from torchthin.thinning.plan import (
    ThinningPlan,
    changed_tensors,
    inexact_layers,
    scaled_layers,
    unsaved_tensors,
)


def thinned_result(
    masked: nn.Module,
    masks: Mapping[str, Tensor],
    found: ThinningPlan,
    report: PruneReport,
    inputs: Inputs,
    config: PruneConfig,
) -> PruneResult:
    """Remove what is masked from the masked copy, and add to the report what that brought."""
    before = measure(masked, inputs)
    if found.recipe:
        apply_(masked, found.recipe, values=changed_tensors(masked, found))
    after = measure(masked, inputs)
    removed = (
        () if found.recipe else ("Nothing was removed: the masks leave no whole channel dead that can go.",)
    )
    report = replace(
        report,
        notes=(*report.notes, *removed, *scaled_layers(found), *unsaved_tensors(masked, found)),
        macs=before.macs,
        thinned_parameters=after.parameters,
        thinned_parameter_bytes=after.parameter_bytes,
        thinned_macs=after.macs,
        proof=found.outcome.proof,
        inexact=inexact_layers(found),
    )
    return PruneResult(masked, masks, report, found.recipe or None, found.outcome.proof, config)
