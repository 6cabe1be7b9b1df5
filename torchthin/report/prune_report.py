"""What a pruning run achieved, as facts and as text.

Sparsity is always a share in 0..1 of something named:
- ``channel_sparsity``: filters masked as a whole / filters, of the targeted weights;
- ``weight_sparsity``: weights masked / weights, of the targeted weights;
- ``model_weight_sparsity``: parameters masked / all parameters of the model, biases and BatchNorm included,
  also those that are masked because they make channels that are removed.
A weight counts when its mask removes it; a weight that happens to be zero and is kept does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torchthin.config import Distiller, PruneConfig, Ratio
from torchthin.graph.cost import Cost
from torchthin.report.sections import SECTIONS, RecoveryFacts, Section
from torchthin.report.tables import table
from torchthin.thinning.proof.verdict import NOT_PROVED, REMEDY, Proof, verdict_line
from torchthin.thinning.recipe import Recipe


def share(part: int, whole: int) -> float:
    """Return part / whole, 0.0 for nothing of nothing."""
    return part / whole if whole else 0.0


@dataclass(frozen=True)
class Request:
    """What a run was asked for."""

    method: str
    target_sparsity: float
    """Of channels (structured) or weights (unstructured); what is removed, where a budget or a chip decided."""
    agp_steps: int
    scope: str
    compat: str | None
    structured: bool
    schedule: tuple[float, ...]
    """Sparsity after each step; one step for methods at once."""
    excluded: tuple[str, ...]
    """Weights excluded on request."""
    by_kind: tuple[tuple[str, float], ...] = ()
    """Kind or pattern and share, where shares were asked for by kind."""
    criterion: str | None = None
    """What ranked, where that is not what the method is named after."""

    @classmethod
    def of(
        cls, config: PruneConfig, target_share: float, schedule: tuple[float, ...], excluded: tuple[str, ...]
    ) -> Request:
        """Return what `config` asks for."""
        target = config.target
        compat = "distiller" if isinstance(target, Distiller) else None
        structured, steps = config.structured, config.agp_steps
        by_kind = tuple(target.by_kind.items()) if isinstance(target, Ratio) else ()
        own = config.ranked_by == target.default_criterion
        return cls(
            config.method,
            target_share,
            steps,
            target.scope,
            compat,
            structured,
            schedule,
            excluded,
            by_kind,
            None if own else config.ranked_by,
        )

    @property
    def title(self) -> str:
        """The method, as what it was done, and what ranked, in words."""
        compat = f", as {self.compat}" if self.compat else ""
        ranked = f", ranked by {self.criterion}" if self.criterion else ""
        return f"{self.method}{compat}{ranked}"

    @property
    def amount(self) -> str:
        """How much is asked for, in words."""
        shares = [
            f"{_percent(share)} of {kind}" if share < 1 else f"{share:g} {kind}"
            for kind, share in self.by_kind
        ]
        return ", ".join(shares) or f"{_percent(self.target_sparsity)} of the {self.unit}"

    @property
    def unit(self) -> str:
        """What the target counts."""
        return "channels" if self.structured else "weights"


@dataclass(frozen=True)
class LayerFacts:
    """What happened to one targeted weight, or to all together."""

    name: str
    shape: tuple[int, ...]
    filters: int
    """Number of filters: channels that could be removed."""
    pruned_channels: int
    """Filters all of whose weights are masked."""
    weights: int
    zeroed_weights: int
    asked: int
    """Channels (structured) or weights (unstructured) that the target stands for."""
    thinned_shape: tuple[int, ...] | None = None
    """In the thinned model; None where nothing was thinned."""

    @property
    def channel_sparsity(self) -> float:
        """Share of the filters that are masked as a whole."""
        return share(self.pruned_channels, self.filters)

    @property
    def weight_sparsity(self) -> float:
        """Share of the weights that are masked."""
        return share(self.zeroed_weights, self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        shares = {"channel_sparsity": self.channel_sparsity, "weight_sparsity": self.weight_sparsity}
        after = None if self.thinned_shape is None else list(self.thinned_shape)
        return {**asdict(self), "shape": list(self.shape), "thinned_shape": after, **shares}


@dataclass(frozen=True)
class ThinnedFacts:
    """What removing the masked channels brought."""

    before: Cost
    """Of the full-size model."""
    after: Cost
    proof: Proof | None
    """The comparison of the thinned with the masked model; None where nothing was removed, or nothing was compared."""
    removed: bool = True
    """Whether anything was."""
    inexact: tuple[str, ...] = ()
    """Layers where the thinned model is another function than the masked one, with the cause."""

    @property
    def verdict(self) -> str | None:
        """How the comparison ended, or that there was none; None where nothing was removed."""
        return (NOT_PROVED if self.removed else None) if self.proof is None else self.proof.verdict


@dataclass(frozen=True)
class PruneReport:
    """What was asked of a run and what it achieved."""

    request: Request
    layers: tuple[LayerFacts, ...]
    total: LayerFacts
    """All layers together."""
    zeroed_parameters: int
    """Everything that is masked, also what makes removed channels beside the filters."""
    parameters: int
    """All parameters of the full-size model, shared ones once."""
    parameter_bytes: int
    notes: tuple[str, ...]
    target_reached: bool
    """Whether at least as much was pruned as was asked, and something if the target is above 0."""
    thinned: ThinnedFacts | None = None
    """None for a model that is only masked."""
    sections: tuple[Section, ...] = ()
    """What the target adds, such as budgets, or the costs on the chip that channels were chosen for."""
    recovery: RecoveryFacts | None = None
    """What was won back from data after thinning."""

    @property
    def achieved(self) -> float:
        """Sparsity of what the target counts: channels or weights."""
        return self.total.channel_sparsity if self.request.structured else self.total.weight_sparsity

    @property
    def model_weight_sparsity(self) -> float:
        """Share of all parameters of the model that are masked."""
        return share(self.zeroed_parameters, self.parameters)

    def section(self, key: str) -> Any:
        """Return the section with that key in JSON, None where the run has none."""
        return next((section for section in self.sections if section.key == key), None)

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types: dicts, lists, str, int, float, bool, None."""
        request, total, thinned = asdict(self.request), self.total.to_dict(), self.thinned
        kept = request.pop("excluded")
        request["by_kind"] = dict(request["by_kind"])
        after = None if thinned is None else thinned.after
        facts = {
            **request,
            "layers": [layer.to_dict() for layer in self.layers],
            "kept": kept,
            "notes": self.notes,
            **{key: value for key, value in total.items() if key not in ("name", "shape")},
            "zeroed_parameters": self.zeroed_parameters,
            "model_weight_sparsity": self.model_weight_sparsity,
            "target_reached": self.target_reached,
            "parameters": self.parameters,
            "parameter_bytes": self.parameter_bytes,
            "macs": None if thinned is None else thinned.before.macs,
            "macs_per_sample": None if thinned is None else thinned.before.macs_per_sample,
            "thinned_parameters": None if after is None else after.parameters,
            "thinned_parameter_bytes": None if after is None else after.parameter_bytes,
            "thinned_macs": None if after is None else after.macs,
            "proof": None if thinned is None or thinned.proof is None else thinned.proof.to_dict(),
            "verdict": None if thinned is None else thinned.verdict,
            "recovery": None if self.recovery is None else self.recovery.to_dict(),
            "inexact": () if thinned is None else thinned.inexact,
            **SECTIONS,
            **{section.key: section.to_dict() for section in self.sections},
        }
        return {key: _plain(value) for key, value in facts.items()}

    def __str__(self) -> str:
        shown = [*_layer_table(self), ""] if self.layers or self.section("removed_layers") is None else []
        return "\n".join([*shown, *_summary(self)])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def with_thinning(report: PruneReport, facts: ThinnedFacts, recipe: Recipe) -> PruneReport:
    """Return the report with what thinning brought, and the new shape of every targeted weight."""
    layers = tuple(
        replace(
            layer, thinned_shape=recipe.shape_after(layer.name) if layer.name in recipe.keep else layer.shape
        )
        for layer in report.layers
    )
    return replace(report, layers=layers, thinned=facts)


def _layer_table(report: PruneReport) -> list[str]:
    """Return what became of every weight: its new shape where the model was thinned, else how much of it is zero."""
    rows: list[tuple[str, ...]] = []
    thinned = any(layer.thinned_shape for layer in report.layers)
    for layer in (*report.layers, report.total):
        channels = (f"{layer.pruned_channels} of {layer.filters}", _percent(layer.channel_sparsity))
        if thinned:
            rows.append((layer.name, _shape(layer.shape), _shape(layer.thinned_shape or ()), *channels))
        else:
            zeroed = f"{layer.zeroed_weights:,} of {layer.weights:,}"
            rows.append((layer.name, _shape(layer.shape), *channels, zeroed, _percent(layer.weight_sparsity)))
    if thinned:
        return table(("weight", "shape", "after", "channels pruned", "channel sparsity"), rows)
    return table(
        ("weight", "shape", "channels pruned", "channel sparsity", "weights zeroed", "weight sparsity"), rows
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def headline(report: PruneReport) -> list[str]:
    """Return what was asked and what the masks achieve of it, as lines of text."""
    request, achieved = report.request, _percent(report.achieved)
    where = "over all groups together" if request.scope == "global" else "per layer, rounded down"
    asked = f"{request.title}: asked {request.amount} ({where}), achieved {achieved}" + (
        "." if report.target_reached else ": TARGET MISSED."
    )
    for section in report.sections:
        if section.choice:
            asked = f"{request.title}: channels {section.choice}, {achieved} of them pruned."
    if not report.layers and report.section("removed_layers") is not None:
        asked = f"{request.method}: asked {request.amount}; no channels were asked for."
    return [*map(str, report.sections), asked]


def _summary(report: PruneReport) -> list[str]:
    lines = [
        *headline(report),
        f"All parameters: {report.zeroed_parameters:,} of {report.parameters:,} zeroed "
        f"({_percent(report.model_weight_sparsity)}); {report.parameter_bytes:,} bytes.",
    ]
    if report.thinned is not None:
        recovered = report.recovery is not None and report.recovery.after < report.recovery.before
        lines += _thinning(report.thinned, recovered=recovered)
    if report.recovery is not None:
        lines += [str(report.recovery), *(f"Note: {note}" for note in report.recovery.notes)]
    return [*lines, *excluded_line(report), *(f"Note: {note}" for note in gathered(report.notes))]


def gathered(notes: Iterable[str]) -> list[str]:
    """Return the notes, those that say the same of several weights as one, with at most three of their names."""
    names: dict[str, list[str]] = {}
    for note in notes:
        name, separator, rest = note.partition(": ")
        names.setdefault(rest if separator else note, []).extend([name] if separator else [])
    lines = []
    for rest, every in names.items():
        of = list(dict.fromkeys(every))
        more = f" and {len(of) - 3} more" if len(of) > 3 else ""
        lines.append(f"{', '.join(of[:3])}{more}: {rest}" if of else rest)
    return lines


def excluded_line(report: PruneReport) -> list[str]:
    """Return what was excluded, as at most one line of text."""
    names = report.request.excluded
    beside = [name for name in names if name.endswith("bias")]
    kept = f" Channels that {beside[0]} is part of are kept with it." if beside else ""
    return [f"Excluded as asked: {', '.join(names)}.{kept}"] if names else []


def change(name: str, before: int, after: int) -> str:
    """Return a number before and after, and the share that is left, as text."""
    return f"{name} {before:,} -> {after:,} ({_percent(after / before if before else 1.0)})"


def _thinning(thinned: ThinnedFacts, *, recovered: bool) -> list[str]:
    """Return what removing the channels brought, and the proof, which is of the model before it was recovered."""
    before, after, proof = thinned.before, thinned.after, thinned.proof
    parts = [
        change("parameters", before.parameters, after.parameters),
        change("bytes", before.parameter_bytes, after.parameter_bytes),
        change(before.unit, before.macs, after.macs),
    ]
    lines = [f"Thinned: {', '.join(parts)}."]
    if not thinned.removed:
        return [*lines, "Nothing was removed."]
    verdict = verdict_line(proof, thinned.inexact)
    if recovered:
        return [*lines, f"Proof, before the recovery: {verdict.removesuffix(REMEDY)}."]
    return [*lines, f"Proof: {verdict}."]
