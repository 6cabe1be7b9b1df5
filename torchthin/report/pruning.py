"""What a pruning run achieved, as facts and as text.

Sparsity is always a share in 0..1 of something named:
- ``channel_sparsity``: filters masked as a whole / filters, of the targeted weights;
- ``weight_sparsity``: weights masked / weights, of the targeted weights;
- ``model_weight_sparsity``: weights masked / all parameters of the model, biases and BatchNorm included.
A weight counts when its mask drops it; a weight that happens to be zero and is kept does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from torchthin.config import Distiller, PruneConfig
from torchthin.graph.clone import state_tensors
from torchthin.report.recovery import RecoveryFacts
from torchthin.report.tables import table
from torchthin.thinning.proof import Proof

SECTION_KEYS = ("chip",)
"""Keys that are in the JSON of every run, null without such a section."""


def share(part: int, whole: int) -> float:
    """Return part / whole, 0.0 for nothing of nothing."""
    return part / whole if whole else 0.0


@dataclass(frozen=True)
class LayerFacts:
    """What happened to one targeted weight."""

    name: str
    shape: tuple[int, ...]
    filters: int
    """Number of filters: channels that could go."""
    pruned_channels: int
    """Filters all of whose weights are masked."""
    weights: int
    zeroed_weights: int
    asked: int
    """Channels (structured) or weights (unstructured) that the target stands for in this weight."""
    channel_sparsity: float
    weight_sparsity: float


@dataclass(frozen=True)
class BudgetFacts:
    """What one budget allowed, and what the thinned model costs."""

    name: str
    """``parameters`` or ``macs`` (of one forward pass on the example inputs)."""
    limit: int
    before: int
    after: int

    def __str__(self) -> str:
        unit = "MACs" if self.name == "macs" else self.name
        share = self.after / self.before if self.before else 1.0
        return f"Budget: at most {self.limit:,} of {self.before:,} {unit}, reached {self.after:,} ({100 * share:.2f} %)."


class Section(Protocol):
    """What a room above adds to the report, which shows it without knowing it: a dataclass of plain values."""

    @property
    def key(self) -> str:
        """Its key in the JSON of the report."""

    @property
    def choice(self) -> str:
        """How the channels were chosen, after "channels ": ``chosen for MAX78000``."""

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""


@dataclass(frozen=True)
class PruneReport:
    """What was asked of a run and what it achieved."""

    method: str
    target_sparsity: float
    """Of channels (structured) or weights (unstructured); what went, where a chip decided."""
    agp_steps: int
    scope: str
    compat: str | None
    structured: bool
    schedule: tuple[float, ...]
    """Sparsity after each step; one step for methods at once."""
    layers: tuple[LayerFacts, ...]
    kept: tuple[str, ...]
    """Weights excluded on request."""
    notes: tuple[str, ...]
    filters: int
    pruned_channels: int
    weights: int
    """Number of weights in the targeted tensors."""
    zeroed_weights: int
    asked: int
    """Channels or weights that the target stands for."""
    channel_sparsity: float
    weight_sparsity: float
    model_weight_sparsity: float
    target_reached: bool
    """Whether at least as much went as was asked, and something if the target is above 0."""
    parameters: int
    """All parameters of the model, shared ones once."""
    parameter_bytes: int
    macs: int | None = None
    """Of one forward pass before thinning; None without example inputs."""
    thinned_parameters: int | None = None
    thinned_parameter_bytes: int | None = None
    thinned_macs: int | None = None
    proof: Proof | None = None
    """The comparison of the thinned with the masked model."""
    sections: tuple[Section, ...] = ()
    """What a room above adds, such as the costs on the chip that channels were chosen for (key ``chip``)."""
    recovery: RecoveryFacts | None = None
    """What was brought back from data after thinning."""
    budgets: tuple[BudgetFacts, ...] = ()
    """Parameters and MACs that were asked for, and what the thinned model has."""
    inexact: tuple[str, ...] = ()
    """Layers where the thinned model cannot equal the masked one, with the cause."""

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types: dicts, lists, str, int, float, bool, None."""
        facts = {key: _plain(value) for key, value in asdict(self).items() if key != "sections"}
        proof = None if self.proof is None else _plain(self.proof.to_dict())
        sections: dict[str, Any] = {
            **dict.fromkeys(SECTION_KEYS),
            **{s.key: s.to_dict() for s in self.sections},
        }
        return {**facts, "proof": proof, **sections}

    def section(self, key: str) -> Any:
        """Return the section with that key in JSON, None where the run has none."""
        return next((section for section in self.sections if section.key == key), None)

    def __str__(self) -> str:
        return "\n".join([*_layer_table(self), "", *_summary(self)])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Filters:
    """Where the filters of a targeted weight lie, and how many units the target stands for."""

    axis: int
    per_filter: int
    asked: int


def _layer(name: str, weight: Tensor, mask: Tensor, filters: Filters) -> LayerFacts:
    count = weight.shape[filters.axis] // filters.per_filter
    rows = mask.movedim(filters.axis, 0).reshape(count, -1)
    # On bytes amax is a hundred times as fast as any() on bools.
    pruned = int((rows.byte().amax(dim=1) == 0).sum())
    zeroed = mask.numel() - int(mask.count_nonzero())
    return LayerFacts(
        name=name,
        shape=tuple(weight.shape),
        filters=count,
        pruned_channels=pruned,
        weights=weight.numel(),
        zeroed_weights=zeroed,
        asked=filters.asked,
        channel_sparsity=share(pruned, count),
        weight_sparsity=share(zeroed, weight.numel()),
    )


def _misses(layers: tuple[LayerFacts, ...], structured: bool, scope: str, asked: int) -> tuple[str, ...]:
    """Return in words where less went than was asked."""
    unit = "channels" if structured else "weights"
    if scope == "global":
        got = sum(layer.pruned_channels if structured else layer.zeroed_weights for layer in layers)
        return (f"{got} of {asked} {unit} asked for went.",) if got < asked else ()
    return tuple(
        f"{layer.name}: {got} of {layer.asked} {unit} asked for went."
        for layer in layers
        if (got := layer.pruned_channels if structured else layer.zeroed_weights) < layer.asked
    )


def build_report(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    filters: Mapping[str, Filters],
    config: PruneConfig,
    *,
    target_share: float,
    schedule: tuple[float, ...],
    asked: int,
    excluded: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> PruneReport:
    """Return the report of `masks` on `model`.

    Args:
        model: full size; only its shapes are looked at.
        masks: weight name -> bool tensor, True = keep.
        filters: target name -> where its filters lie.
        config: what was asked.
        target_share: of channels or weights that was asked for; what is removed, where a budget or a chip decided.
        schedule: sparsity after every step.
        asked: channels or weights asked for in total.
        excluded: weights excluded on request.
        notes: what else a user should know.
    """
    structured = config.structured
    tensors = dict(state_tensors(model))
    layers = tuple(_layer(name, tensors[name], masks[name], filters[name]) for name in masks)
    parameters = list(model.parameters())
    count, weights = sum(layer.filters for layer in layers), sum(layer.weights for layer in layers)
    pruned = sum(layer.pruned_channels for layer in layers)
    zeroed = sum(layer.zeroed_weights for layer in layers)
    total = sum(parameter.numel() for parameter in parameters)
    misses = _misses(layers, structured, config.target.scope, asked)
    if target_share > 0 and not zeroed:
        unit = "channel" if structured else "weight"
        sizes = [layer.filters if structured else layer.weights for layer in layers]
        small = all(target_share * size < 1 for size in sizes)
        cause = (
            f"{target_share:g} of every layer is less than one {unit}"
            if small
            else f"no layer could lose a {unit}"
        )
        misses = (f"Nothing was pruned: {cause}.", *misses)
    return PruneReport(
        method=config.method,
        target_sparsity=target_share,
        agp_steps=config.agp_steps,
        scope=config.target.scope,
        compat="distiller" if isinstance(config.target, Distiller) else None,
        structured=structured,
        schedule=schedule,
        layers=layers,
        kept=excluded,
        notes=misses + notes,
        filters=count,
        pruned_channels=pruned,
        weights=weights,
        zeroed_weights=zeroed,
        asked=asked,
        channel_sparsity=share(pruned, count),
        weight_sparsity=share(zeroed, weights),
        model_weight_sparsity=share(zeroed, total),
        target_reached=not misses,
        parameters=total,
        parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _layer_table(report: PruneReport) -> list[str]:
    headings = ("weight", "shape", "channels pruned", "channel sparsity", "weights zeroed", "weight sparsity")
    rows = [_row(layer.name, "x".join(map(str, layer.shape)), layer) for layer in report.layers]
    return table(headings, [*rows, _row("total", "", report)])


def _row(name: str, shape: str, facts: LayerFacts | PruneReport) -> tuple[str, ...]:
    return (
        name,
        shape,
        f"{facts.pruned_channels} of {facts.filters}",
        _percent(facts.channel_sparsity),
        f"{facts.zeroed_weights:,} of {facts.weights:,}",
        _percent(facts.weight_sparsity),
    )


def headline(report: PruneReport) -> list[str]:
    """Return what was asked and what the masks achieve of it, as lines of text."""
    unit = "channels" if report.structured else "weights"
    achieved = _percent(report.channel_sparsity if report.structured else report.weight_sparsity)
    where = "over all groups together" if report.scope == "global" else "per layer, rounded down"
    compat = f", as {report.compat}" if report.compat else ""
    asked = (
        f"{report.method}{compat}: asked {_percent(report.target_sparsity)} of the {unit} ({where}), "
        f"achieved {achieved}" + ("." if report.target_reached else ": TARGET MISSED.")
    )
    for section in report.sections:
        asked = f"{report.method}: channels {section.choice}, {achieved} of them go."
    if report.budgets:
        where = "by score over all groups" if report.scope == "global" else "the same share of every group"
        asked = f"{report.method}: {achieved} of the channels go to stay within the budget ({where})."
    return [*map(str, report.budgets), *map(str, report.sections), asked]


def _summary(report: PruneReport) -> list[str]:
    lines = [
        *headline(report),
        f"All parameters: {report.zeroed_weights:,} of {report.parameters:,} zeroed "
        f"({_percent(report.model_weight_sparsity)}); {report.parameter_bytes:,} bytes.",
    ]
    lines += _thinning(report)
    if report.recovery is not None:
        lines += [str(report.recovery), *(f"Note: {note}" for note in report.recovery.notes)]
    if report.kept:
        lines.append(f"Kept whole as asked: {', '.join(report.kept)}.")
    return lines + [f"Note: {note}" for note in report.notes]


def change(name: str, before: int, after: int) -> str:
    """Return a number before and after, and the share that is left, as text."""
    return f"{name} {before:,} -> {after:,} ({_percent(after / before if before else 1.0)})"


def _thinning(report: PruneReport) -> list[str]:
    """What removing the channels brought, and the proof."""
    if report.thinned_parameters is None or report.thinned_parameter_bytes is None:
        return []
    parts = [
        change("parameters", report.parameters, report.thinned_parameters),
        change("bytes", report.parameter_bytes, report.thinned_parameter_bytes),
    ]
    if report.macs is not None and report.thinned_macs is not None:
        parts.append(change("MACs", report.macs, report.thinned_macs))
    lines = [f"Thinned: {', '.join(parts)}."]
    if report.proof is None:
        return [*lines, "Nothing was removed."]
    proof = report.proof
    lines.append(
        f"Proof ({proof.dtype}, example and fresh random inputs): the thinned model is off by {proof.relative:.1e} of the "
        f"output's largest value from the masked model with its dead channels as constants, by "
        f"{proof.relative_to_masked:.1e} from the masked model as it is."
    )
    if report.inexact:
        shown = "; ".join(report.inexact[:3])
        more = f"; and {len(report.inexact) - 3} more" if len(report.inexact) > 3 else ""
        lines.append(f"Not exact by nature: {shown}{more}.")
    return lines
