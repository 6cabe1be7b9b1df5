"""From masks on a model to the facts of a report: what was asked of every weight, what it lost, where the target was missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from torchthin.graph.clone import state_tensors
from torchthin.report.prune_report import LayerFacts, PruneReport, Request
from torchthin.report.sections import Section
from torchthin.selection.masks import count_removed, without_copies


@dataclass(frozen=True)
class Filters:
    """Where the filters of a targeted weight are, and how many units the target stands for."""

    axis: int
    per_filter: int
    asked: int


def build_report(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    filters: Mapping[str, Filters],
    request: Request,
    asked: int,
    *,
    notes: tuple[str, ...] = (),
    sections: tuple[Section, ...] = (),
) -> PruneReport:
    """Return the report of `masks` on `model`.

    Args:
        model: full size; only its shapes are looked at.
        masks: weight name -> bool tensor, True = kept; what is no target counts among all parameters only.
        filters: target name -> where its filters are.
        request: what was asked for.
        asked: channels or weights that it stands for in total.
        notes: what else a user should know.
        sections: what the target adds.
    """
    tensors = dict(state_tensors(model))
    layers = tuple(
        _layer(name, tensor, masks[name], filters[name])
        for name, tensor in tensors.items()  # in the order in which the model defines them
        if name in masks and name in filters
    )
    total = LayerFacts(
        "total",
        (),
        sum(layer.filters for layer in layers),
        sum(layer.pruned_channels for layer in layers),
        sum(layer.weights for layer in layers),
        sum(layer.zeroed_weights for layer in layers),
        asked,
    )
    misses = _misses(request, layers, total)
    parameters = list(model.parameters())
    return PruneReport(
        request,
        layers,
        total,
        zeroed_parameters(model, masks),
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        misses + notes,
        not misses,
        sections=sections,
    )


def zeroed_parameters(model: nn.Module, masks: Mapping[str, Tensor]) -> int:
    """Count the parameters that masks set to zero."""
    names = {name for name, _ in model.named_parameters()}
    return sum(count_removed(mask) for name, mask in masks.items() if name in names)


def _layer(name: str, weight: Tensor, mask: Tensor, filters: Filters) -> LayerFacts:
    count = weight.shape[filters.axis] // filters.per_filter
    rows = without_copies(mask, filters.axis).movedim(filters.axis, 0).reshape(count, -1)
    # On bytes amax is a hundred times as fast as any() on bools.
    pruned = int((rows.byte().amax(dim=1) == 0).sum())
    shape, zeroed = tuple(weight.shape), count_removed(mask)
    return LayerFacts(name, shape, count, pruned, weight.numel(), zeroed, filters.asked)


def _misses(request: Request, layers: tuple[LayerFacts, ...], total: LayerFacts) -> tuple[str, ...]:
    """Return in words where less was pruned than was asked."""

    def got(facts: LayerFacts) -> int:
        return facts.pruned_channels if request.structured else facts.zeroed_weights

    misses = []
    if request.target_sparsity > 0 and not total.zeroed_weights:
        sizes = [layer.filters if request.structured else layer.weights for layer in layers]
        small = all(request.target_sparsity * size < 1 for size in sizes)
        unit = request.unit.removesuffix("s")
        cause = (
            f"{request.target_sparsity:g} of every layer is less than one {unit}"
            if small
            else f"no layer could lose a {unit}"
        )
        misses.append(f"Nothing was pruned: {cause}.")
    if request.scope == "global":
        if got(total) < total.asked:
            misses.append(f"{got(total)} of {total.asked} {request.unit} asked for were pruned.")
        return tuple(misses)
    missed = [layer for layer in layers if got(layer) < layer.asked]
    lines = [
        f"{layer.name}: {got(layer)} of {layer.asked} {request.unit} asked for were pruned."
        for layer in missed
    ]
    return (*misses, *lines)
