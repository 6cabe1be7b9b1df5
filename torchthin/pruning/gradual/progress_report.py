"""What a gradual run achieved so far, in the form in which `prune` tells it."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from torchthin.config import PruneConfig
from torchthin.pruning.gradual.mask_state import Growth
from torchthin.pruning.gradual.prepared import Beginning
from torchthin.pruning.gradual.sparsity_schedule import When
from torchthin.pruning.gradual.thinned_groups import full_size
from torchthin.pruning.in_place import Thinned
from torchthin.pruning.result import PruneResult
from torchthin.report.pruning import PruneReport, build_report


def result_of(
    model: nn.Module,
    growth: Growth,
    beginning: Beginning,
    config: PruneConfig,
    when: When,
    step: int,
    thinned: Thinned | None,
    macs: list[int] | None,
) -> PruneResult:
    """Return the result as it stands after `step` steps.

    Args:
        model: as it is now, masked.
        growth: what is gone.
        beginning: what was known before the first step.
        config: what is asked for at the end.
        when: the schedule.
        step: steps done.
        thinned: the last thinning.
        macs: before and after thinning.
    """
    asked = replace(config.at(when.sparsity(step)), thin=growth.recipe is not None)
    whole = full_size(model, growth.recipe)
    masks = growth.whole_masks(whole)
    filters, count = growth.asked(asked)
    notes = beginning.notes
    if step < when.last:
        notes = (
            f"The schedule goes on to {when.planned[-1]:g}: step {step} of {when.last} is done.",
            *notes,
        )
    report = build_report(
        whole,
        {name: mask for name, mask in masks.items() if name in filters},
        filters,
        asked,
        target_share=asked.target.share,
        schedule=when.planned,
        asked=count,
        excluded=beginning.kept,
        notes=notes,
    )
    if thinned is not None and macs is not None:
        report = _with_thinning(report, model, thinned, macs)
    proof = None if thinned is None else thinned.proof
    return PruneResult(model, masks, report, growth.recipe, proof, asked)


def _with_thinning(report: PruneReport, model: nn.Module, thinned: Thinned, macs: list[int]) -> PruneReport:
    parameters = list(model.parameters())
    return replace(
        report,
        macs=macs[0],
        thinned_parameters=sum(p.numel() for p in parameters),
        thinned_parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
        thinned_macs=macs[1],
        proof=thinned.proof,
        inexact=thinned.inexact,
    )
