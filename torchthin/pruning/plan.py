"""A pruning that is decided and proved but not carried out: look at it first, apply it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.graph.clone import clone, duplicate
from torchthin.graph.cost import measure
from torchthin.graph.inputs import Inputs
from torchthin.graph.trace import trace
from torchthin.pruning.result import PruneResult
from torchthin.report.pruning import PruneReport
from torchthin.selection.selectors import DeadChannelSelector, effective_weights
from torchthin.thinning.apply import apply_
from torchthin.thinning.plan import (
    ThinningPlan,
    changed_tensors,
    find_plan,
    inexact_layers,
    scaled_layers,
    unsaved_tensors,
)
from torchthin.thinning.proof import Proof
from torchthin.thinning.recipe import Recipe


@dataclass(frozen=True)
class PruningPlan:
    """What `plan` found; printing it gives `explain`. The caller's model is as it was."""

    model: nn.Module = field(repr=False)
    """The caller's own; `apply` works on a copy."""
    config: PruneConfig
    masks: Mapping[str, Tensor] = field(repr=False)
    """Weight name (seldom bias name) -> bool tensor of its shape, True = keep."""
    report: PruneReport = field(repr=False)
    """What was asked, and what the masks achieve."""
    thinning: ThinningPlan | None = field(default=None, repr=False)
    """How the masked channels are removed, tried and proved; None where every weight was ranked alone."""
    inputs: Inputs | None = field(default=None, repr=False)

    @property
    def recipe(self) -> Recipe | None:
        """What thins the model, as plain data; None where nothing can be removed, or without example inputs."""
        return None if self.thinning is None else self.thinning.recipe or None

    @property
    def proof(self) -> Proof | None:
        """How masked and thinned model compare; None without example inputs."""
        return None if self.thinning is None else self.thinning.outcome.proof

    def explain(self) -> str:
        """Return as text what would be masked and removed, from which layers, and what is in the way of the rest."""
        text = str(self.report)
        recipe = self.recipe
        if recipe is None:
            return text
        shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters() if name in recipe.keep}
        lines = [
            f"  {name}: {'x'.join(map(str, shape))} -> {'x'.join(map(str, recipe.shape_after(name)))}"
            for name, shape in shapes.items()
        ]
        return "\n".join([text, f"Thinning would change {len(lines)} parameters:", *lines])

    def __str__(self) -> str:
        return self.explain()

    def apply(self) -> PruneResult:
        """Return a pruned copy of the model: thinned, or with ``thin=False`` masked, with the report.

        Raises:
            ProofError: no way to remove what is masked held.
        """
        masks = self.masks
        masked = clone(
            self.model, lambda name, t: t.detach() * masks[name] if name in masks else duplicate(name, t)
        )
        report, found = self.report, self.thinning
        if not self.config.thin or self.inputs is None:
            return PruneResult(masked, masks, report, self.recipe, self.proof, self.config)
        if (
            found is None
        ):  # every weight was ranked alone: what came out dead in all coupled layers is removed
            found = find_plan(trace(masked, self.inputs), DeadChannelSelector(effective_weights(masked)))
        before = measure(masked, self.inputs)
        if found.recipe:
            apply_(masked, found.recipe, values=changed_tensors(masked, found))
        after = measure(masked, self.inputs)
        removed = (
            ()
            if found.recipe
            else ("Nothing was removed: no channel that can be removed is masked in all layers.",)
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
        return PruneResult(masked, masks, report, found.recipe or None, found.outcome.proof, self.config)
