"""How far a run is, and what it has achieved, in the form in which `prune` reports it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from torchthin.graph.clone import clone
from torchthin.graph.cost import Cost
from torchthin.pruning.gradual.mask_state import MaskState
from torchthin.pruning.gradual.prepared import Prepared
from torchthin.pruning.in_place import Thinned
from torchthin.pruning.result import PruneResult
from torchthin.report.from_masks import build_report
from torchthin.report.prune_report import Request, ThinnedFacts, with_thinning
from torchthin.thinning.recipe import Recipe


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of the full-size model and of the thinned one."""

    before: int
    after: int
    per_sample: bool
    """False: of the whole example, see `torchthin.graph.cost.Cost`."""


@dataclass(frozen=True)
class Progress:
    """All that changes in a run."""

    masks: MaskState
    step: int = 0
    """Steps done."""
    thinned: Thinned | None = None
    """The latest thinning."""
    macs: Macs | None = None
    """None before a thinning."""


def result_of(model: nn.Module, prepared: Prepared, progress: Progress) -> PruneResult:
    """Return the result so far; `model` is as it is now, masked."""
    schedule, recipe, thinned = prepared.schedule, progress.masks.recipe, progress.thinned
    config = replace(prepared.config.at(schedule.sparsity(progress.step)), thin=bool(recipe))
    full_size = _full_size(model, recipe)
    masks = progress.masks.full_size_masks(full_size)
    filters, asked = progress.masks.asked(config)
    notes = prepared.notes
    if progress.step < schedule.last:
        state = f"step {progress.step} of {schedule.last} is done"
        notes = (f"The schedule goes on to {schedule.planned[-1]:g}: {state}.", *notes)
    report = build_report(
        full_size,
        masks,
        filters,
        Request.of(config, config.target.share, schedule.planned, prepared.excluded),
        asked,
        notes=notes,
    )
    if thinned is None or progress.macs is None:
        return PruneResult(model, masks, report, recipe or None, None, config, prepared.inputs)
    parameters = list(model.parameters())
    before = Cost(report.parameters, report.parameter_bytes, progress.macs.before, progress.macs.per_sample)
    parameter_bytes = sum(p.numel() * p.element_size() for p in parameters)
    after = Cost(
        sum(p.numel() for p in parameters), parameter_bytes, progress.macs.after, progress.macs.per_sample
    )
    facts = ThinnedFacts(before, after, thinned.proof, inexact=thinned.inexact)
    report = with_thinning(report, facts, recipe)
    return PruneResult(model, masks, report, recipe, thinned.proof, config, prepared.inputs)


def _full_size(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Return a stand-in with the shapes that a model had before the recipe thinned it; its values take no memory."""
    if not recipe:
        return model

    def stand_in(name: str, tensor: Tensor) -> Tensor:
        shape = recipe.shapes.get(name, tuple(tensor.shape))
        return tensor.detach().new_zeros(()).expand(shape)

    full_size = clone(model, stand_in)
    for name in recipe.added:
        path, _, local = name.rpartition(".")
        setattr(full_size.get_submodule(path), local, None)
    return full_size
