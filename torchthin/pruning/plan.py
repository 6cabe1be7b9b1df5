"""A pruning that is decided and proved but not carried out: look at it first, apply it later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from torchthin.config import PruneConfig, Recovery
from torchthin.graph.clone import clone, duplicate, state_tensors
from torchthin.graph.cost import Cost, known_cost, measure
from torchthin.graph.inputs import Inputs
from torchthin.graph.sample import Sample, one_sample
from torchthin.graph.trace import collection_paused
from torchthin.io.calibration import Calibration
from torchthin.pruning.in_place import dead_channels_plan
from torchthin.pruning.layers import Shortened, both, with_layers
from torchthin.pruning.pretrained.save import SHARD
from torchthin.pruning.recover import recover
from torchthin.pruning.result import PruneResult
from torchthin.report.from_masks import zeroed_parameters
from torchthin.report.prune_report import (
    PruneReport,
    ThinnedFacts,
    change,
    excluded_line,
    gathered,
    headline,
    with_thinning,
)
from torchthin.report.tables import table
from torchthin.selection.masks import masked
from torchthin.selection.selectors import DeadChannelSelector, effective_weights
from torchthin.thinning.apply import apply_
from torchthin.thinning.layer_names import name_after
from torchthin.thinning.proof.verdict import Proof, verdict_line
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.search.constraints import Constraints
from torchthin.thinning.search.trial_loop import (
    ThinningPlan,
    changed_tensors,
    notes_on,
)
from torchthin.thinning.thinned import ThinnedTensors

_SHOWN = 6
"""Notes, and layers that are not exact, that `PruningPlan.explain` shows; of the rest it gives the number."""


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
    values: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """New values of weights and biases, where the criterion updates what it keeps; zero where masked."""
    shortened: Shortened | None = field(default=None, repr=False)
    """What is known of the layers that go first; `model` is the one without them then, and `masks` are of that."""
    refit: Calibration | None = field(default=None, repr=False)
    """Data from which `apply` recovers the thinned model, see `torchthin.recover`; None: it does not."""
    recovery: Recovery = field(default_factory=Recovery, repr=False)
    """How it does."""

    @property
    def recipe(self) -> Recipe | None:
        """What thins the model, as plain data; None where nothing can be removed, or without example inputs."""
        own = None if self.thinning is None else self.thinning.recipe or None
        return own if self.shortened is None else with_layers(self.shortened, own)

    @property
    def proof(self) -> Proof | None:
        """How masked and thinned model compare; None where nothing is removed, or compared (``proof="off"``)."""
        own = None if self.thinning is None else self.thinning.outcome.proof
        return own if self.shortened is None else both(self.shortened.proof, own)

    def explain(self) -> str:
        """Return as text which layers lose how many channels, all sizes before and after, and how the trial ended."""
        lines = [*_layers(self), "", *headline(self.report), *_sizes(self), *_verdict(self)]
        lines += excluded_line(self.report)
        notes = [f"Note: {note}" for note in gathered(self.report.notes)]
        more = len(notes) - _SHOWN
        return "\n".join(
            [*lines, *notes[:_SHOWN], *([f"{more} more notes are in report.notes."] if more > 0 else [])]
        )

    def __str__(self) -> str:
        return self.explain()

    @collection_paused()
    def apply(self) -> PruneResult:
        """Return a pruned copy of the model: thinned, or with ``thin=False`` masked, with the report.

        Raises:
            ProofError: no way to remove what is masked held.
        """
        if self.shortened is None:
            return self._applied()
        if self.thinning is None:
            result = self._without_layers(self.shortened, clone(self.model, duplicate), self.report)
        else:
            channels = self._applied()
            result = self._without_layers(self.shortened, channels.model, channels.report)
        if self.refit is None:
            return result
        return recover(self.shortened.dense, result, self.inputs, self.refit, recovery=self.recovery)

    def _without_layers(self, shortened: Shortened, small: nn.Module, report: PruneReport) -> PruneResult:
        """Return the result for a copy, whose costs are compared with those of the model that has all layers."""
        assert self.inputs is not None
        sample = one_sample(self.model, self.inputs)
        inexact = () if self.thinning is None else self.thinning.outcome.inexact
        facts = ThinnedFacts(
            measure(shortened.dense, sample), measure(small, sample), self.proof, inexact=inexact
        )
        report = replace(report, thinned=facts)
        return PruneResult(small, self.masks, report, self.recipe, self.proof, self.config, self.inputs)

    def _applied(self) -> PruneResult:
        """Return a copy of `model`, pruned."""
        masks, values, found = self.masks, self.values, self.thinning
        if found is not None and self.is_thinned_by_tensor:
            return self._refitted(
                self._thinned(ThinnedTensors(self.model, found, masks).model(), found, masks)
            )
        full = clone(
            self.model,
            lambda name, t: (
                masked(values.get(name, t.detach()), masks[name])
                if name in masks
                else duplicate(name, values.get(name, t))
            ),
        )
        if not self.config.thin or self.inputs is None:
            return PruneResult(full, masks, self.report, self.recipe, self.proof, self.config, self.inputs)
        if found is None:  # every weight was ranked alone: what is dead in all coupled layers is removed
            select = DeadChannelSelector(effective_weights(full), masks_makers=True)
            found = dead_channels_plan(full, self.inputs, select, Constraints.of(self.config))
            more = found.proposal.selection
            masks = {**masks, **{name: more.all_masks[name] for name in more.maker_masks}}
        if found.recipe:
            apply_(full, found.recipe, values=changed_tensors(full, found))
        return self._refitted(self._thinned(full, found, masks))

    def _refitted(self, result: PruneResult) -> PruneResult:
        if self.refit is None or self.shortened is not None or result.recipe is None:
            return result
        return recover(self.model, result, self.inputs, self.refit, recovery=self.recovery)

    def save_pretrained(
        self, folder: str | Path, *, described: bool = True, max_shard_size: int | str = SHARD
    ) -> PruneResult:
        """Write the pruned model of transformers as a folder, tensor by tensor, and return the result.

        The thinned model is never in memory as a whole: the weights of the result's model lie in the files of the folder, which
        must stay as they are while it lives. Else this is `apply`, and `PruneResult.save_pretrained`, whose arguments and
        errors these are.
        """
        from torchthin.pruning.pretrained.streamed import save_plan

        return save_plan(self, folder, described=described, max_shard_size=max_shard_size)

    @property
    def is_thinned_by_tensor(self) -> bool:
        """Whether each tensor of the thinned model can be made alone: it is thinned, and none is computed from others."""
        found = self.thinning
        return (
            self.config.thin
            and found is not None
            and bool(found.recipe)
            and not found.proposal.traced.derived
        )

    def result_of(self, small: nn.Module) -> PruneResult:
        """Return the result for a thinned copy of the model, which was made by tensor."""
        assert self.thinning is not None
        result = self._thinned(small, self.thinning, self.masks)
        if self.shortened is None:
            return result
        return self._without_layers(self.shortened, result.model, result.report)

    def _thinned(self, small: nn.Module, found: ThinningPlan, masks: Mapping[str, Tensor]) -> PruneResult:
        """Return the result of a thinned copy."""
        assert self.inputs is not None
        before, after = _costs(self.model, small, one_sample(self.model, self.inputs), found)
        nothing = "Nothing was removed: no channel that can be removed is masked in all layers."
        notes: tuple[str, ...] = () if found.recipe else (nothing,)
        if self.thinning is None:
            notes += notes_on(self.model, found)
        report = replace(
            self.report,
            zeroed_parameters=zeroed_parameters(self.model, masks),
            notes=(*self.report.notes, *notes),
        )
        facts = ThinnedFacts(before, after, found.outcome.proof, bool(found.recipe), found.outcome.inexact)
        report = with_thinning(report, facts, found.recipe)
        return PruneResult(
            small, masks, report, found.recipe or None, found.outcome.proof, self.config, self.inputs
        )


def _costs(full: nn.Module, small: nn.Module, sample: Sample, found: ThinningPlan) -> tuple[Cost, Cost]:
    """Return what both models cost on one sample, as the record and the trial counted it where they ran on that."""
    traced, macs = found.proposal.traced, found.outcome.macs
    if macs is None or sample.inputs is not traced.inputs or traced.model is not full:
        return measure(full, sample), measure(small, sample)
    return known_cost(full, traced.graph.macs, sample), known_cost(small, macs, sample)


def _layers(plan: PruningPlan) -> list[str]:
    """Return a table of the weights that are masked or become smaller; nothing where only whole layers go."""
    if plan.shortened is not None and plan.thinning is None:
        return []
    recipe, facts = plan.recipe, {layer.name: layer for layer in plan.report.layers}
    shapes = {name: tuple(tensor.shape) for name, tensor in state_tensors(plan.model)}
    rows = []
    for name, shape in shapes.items():
        cut = recipe is not None and name in recipe.keep
        if name not in facts and (not cut or len(shape) < 2):
            continue
        after = recipe.shape_after(name) if cut and recipe is not None else shape
        layer = facts.get(name)
        if layer is None:
            pruned = ""
        elif plan.report.request.structured:
            pruned = f"{layer.pruned_channels} of {layer.filters} channels"
        else:
            pruned = f"{layer.zeroed_weights:,} of {layer.weights:,} weights"
        rows.append((name, pruned, _text(shape), _text(after)))
    return table(("weight", "pruned", "shape", "after"), rows)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _sizes(plan: PruningPlan) -> list[str]:
    """Return the parameters and bytes before and after."""
    report, recipe = plan.report, plan.recipe
    if recipe is None:
        return [f"{report.zeroed_parameters:,} of {report.parameters:,} parameters would be zero."]
    lists = plan.thinning.recipe.layers if plan.thinning is not None else {}
    parameters = {name: p for name, p in plan.model.named_parameters() if name_after(name, lists) is not None}
    counts = {
        name: math.prod(recipe.shape_after(name)) if name in recipe.keep else p.numel()
        for name, p in parameters.items()
    }
    counts |= {name: math.prod(shape) for name, shape in recipe.added.items()}
    bytes_each = {name: p.element_size() for name, p in parameters.items()}
    default = max(bytes_each.values())
    after = sum(count * bytes_each.get(name, default) for name, count in counts.items())
    sizes = [
        change("parameters", report.parameters, sum(counts.values())),
        change("bytes", report.parameter_bytes, after),
    ]
    return [f"Thinning: {', '.join(sizes)}."]


def _verdict(plan: PruningPlan) -> list[str]:
    """Return how the trial on copies ended."""
    if plan.shortened is not None:
        inexact = () if plan.thinning is None else plan.thinning.outcome.inexact
        return [f"Proof: {verdict_line(plan.proof, inexact, _SHOWN)}."]
    if plan.thinning is None:
        if plan.inputs is None or not plan.config.thin:
            return ["Nothing would be removed."]
        return [
            "Every weight is ranked alone: apply removes the channels that are masked in all layers that share them."
        ]
    if plan.recipe is None:
        return ["Nothing would be removed: no channel that can be removed is masked in all layers."]
    return [f"Proof: {verdict_line(plan.proof, plan.thinning.outcome.inexact, _SHOWN)}."]
