"""What a model costs on a chip, and what a cut that was chosen for a chip brings: the facts and their text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from torchthin.graph.inputs import as_inputs, check_model, on_device_of
from torchthin.graph.trace import trace
from torchthin.max7800x.chips import chip_named
from torchthin.max7800x.cost.layer import WeightBits
from torchthin.max7800x.cost.network import LayerCost, NetworkCost, network_cost
from torchthin.max7800x.mapping import NO_LAYER, map_model
from torchthin.report.tables import table

if TYPE_CHECKING:
    from torchthin.max7800x.accuracy import ChipAccuracy

_HEADINGS = (
    *("channels", "passes", "processors", "words", "at word", "bias"),
    *("memory in", "memory out", "cycles"),
)


def chip_cost(
    model: nn.Module, example_inputs: Any, chip: str = "MAX78000", weight_bits: WeightBits = 8
) -> ChipReport:
    """Return what `model`, which is left as it is, costs on `chip`.

    Args:
        model: any model made of layers that the chip can run; what it cannot run is named in the result.
        example_inputs: one example (N, C, H, W) or (N, C, L); its size counts, its values do not.
        chip: MAX78000 or MAX78002.
        weight_bits: 1, 2, 4 or 8, of layers that do not say it themselves, or module path -> bits.

    Raises:
        InputError: model, inputs or chip cannot be used.
    """
    known = chip_named(chip)
    check_model(model, "chip_cost")
    traced = trace(model, on_device_of(model, as_inputs(example_inputs)))
    mapping = map_model(traced, known, weight_bits)
    problems = mapping.problems or (() if mapping.layers else (NO_LAYER,))
    return ChipReport(network_cost(mapping.layers, known), problems, mapping.outside, mapping.notes)


@dataclass(frozen=True)
class ChipReport:
    """What a model costs on a chip, and what of it does not run there."""

    cost: NetworkCost
    """Of the layers that map."""
    unmapped: tuple[str, ...]
    """Operators between layers that the chip cannot run: module path, operator, reason."""
    outside: tuple[str, ...]
    """What the host computes after the network; not counted."""
    notes: tuple[str, ...]
    """Layers that look different on the chip."""
    accuracy: ChipAccuracy | None = None
    """What it is worth in whole numbers, where data or a metric were given."""

    @property
    def fits(self) -> bool:
        """Whether all of the model maps and no limit is violated."""
        return self.cost.fits and not self.unmapped

    @property
    def obstacles(self) -> tuple[str, ...]:
        """All reasons why the model does not fit, one line each."""
        return (*self.unmapped, *self.cost.violations)

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return {
            **self.cost.to_dict(),
            "fits": self.fits,
            "unmapped": list(self.unmapped),
            "outside": list(self.outside),
            "notes": list(self.notes),
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
        }

    def __str__(self) -> str:
        """Return the table of layers, the totals and all remarks as plain lines."""
        rows = [(layer.name, layer.kind, *_cells(layer)) for layer in self.cost.layers]
        return "\n".join(
            [
                *table(("layer", "kind", *_HEADINGS), rows, left=(0, 1)),
                "",
                *_totals(self.cost),
                *(f"Note: {note}." for note in self.notes),
                *(f"Computed by the host, not counted: {item}." for item in self.outside),
                *((str(self.accuracy),) if self.accuracy is not None else ()),
                *self._verdict(),
            ]
        )

    def _verdict(self) -> list[str]:
        cost = self.cost
        if self.fits:
            moved = " with feature maps moved from processor 0, as the table says" if cost.moved else ""
            return [f"Fits {cost.chip}{moved}."]
        counted = (
            "" if all(layer.runs for layer in cost.layers) else " Layers that cannot run are not counted."
        )
        if self.unmapped:
            counted = " Figures are for the layers that map."
        lines = [*self.obstacles, *filter(None, [cost.streaming_hint])]
        return [f"Does not fit {cost.chip}.{counted}", *(f"  {text}." for text in lines)]


def _cells(layer: LayerCost) -> tuple[str, ...]:
    first = layer.first_processor
    channels = f"{layer.in_channels} -> {layer.out_channels}"
    if not layer.runs:
        return (channels, *("-" for _ in _HEADINGS[1:]))
    return (
        channels,
        str(layer.input_passes),
        f"{layer.processors} from {first}" if first else str(layer.processors),
        f"{layer.kernel_words:,}",
        f"{layer.kernel_offset:,}" if layer.kernel_words else "",
        str(layer.bias_bytes),
        f"{layer.input_bytes:,}",
        f"{layer.output_bytes:,}",
        f"{layer.cycles:,}",
    )


def _totals(cost: NetworkCost) -> tuple[str, str]:
    share = 100 * cost.deepest_words / cost.kernel_capacity
    guide = "" if cost.cycles_exact else "; a guide only, ADI's tool gives none for this chip"
    return (
        f"Kernel memory: {cost.kernel_words:,} words in all; deepest processor {cost.deepest_words:,} of "
        f"{cost.kernel_capacity:,} ({share:.1f} %). ADI's tool prints {cost.weight_bytes:,} bytes of weights, "
        f"{cost.bias_bytes:,} of biases.",
        f"Cycles: {cost.cycles:,}, {cost.latency_ms:.2f} ms at {cost.clock_hz / 1e6:g} MHz, without loading and "
        f"unloading{guide}.",
    )


_MUCH = 0.5
"""Share of the weights from which on a cut is compared with the cycles that it saves."""


@dataclass(frozen=True)
class ChipChange:
    """A cut that was chosen for a chip: a section of the pruning report."""

    asked: str
    """The targets in words."""
    before: NetworkCost
    after: NetworkCost
    uniform: NetworkCost
    """What it would be with the same share of every group removed, and at least as many weights."""
    uniform_share: float
    """That share of the channels."""
    channels: int
    """Channels that could be removed, coupled ones counted once."""
    channels_removed: int
    sparsity_asked: float = 0.0
    """Least share of them to remove."""

    @property
    def key(self) -> str:
        """Its key in the JSON of a pruning report."""
        return "chip"

    @property
    def choice(self) -> str:
        """How the channels were chosen."""
        return f"chosen for {self.before.chip}"

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return {
            "asked": self.asked,
            "uniform_share": self.uniform_share,
            "sparsity_asked": self.sparsity_asked,
            "channels": self.channels,
            "channels_gone": self.channels_removed,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "uniform": self.uniform.to_dict(),
        }

    def __str__(self) -> str:
        """Return the table of layers before and after, and the totals beside those of a uniform cut."""
        rows = [
            (
                old.name,
                _moved(
                    f"{old.in_channels} to {old.out_channels}", f"{new.in_channels} to {new.out_channels}"
                ),
                _moved(f"{old.kernel_words:,}", f"{new.kernel_words:,}"),
                _moved(f"{old.cycles:,}", f"{new.cycles:,}"),
                f"{old.cycles - new.cycles:,}",
            )
            for old, new in zip(self.before.layers, self.after.layers, strict=True)
        ]
        lines = table(("layer", "channels", "words", "cycles", "cycles saved"), rows)
        return "\n".join([*lines, "", *self._totals()])

    def _totals(self) -> list[str]:
        before, after = self.before, self.after
        fits = "fits" if after.fits else f"does not fit: {after.violations[0]}"
        guide = "" if after.cycles_exact else " Cycles of this chip are a guide."
        lines = [f"{before.chip}, asked {self.asked}; the result {fits}.{guide}"]
        for name, field in (
            ("cycles", "cycles"),
            ("words of the deepest processor", "deepest_words"),
            ("weight bytes", "weight_bytes"),
        ):
            old, new, plain = (getattr(cost, field) for cost in (before, after, self.uniform))
            lines.append(
                f"  {name}: {old:,} -> {new:,} ({_percent(new, old)}); a uniform cut of "
                f"{100 * self.uniform_share:.0f} %: {plain:,} ({_percent(plain, old)})."
            )
        if self.sparsity_asked:
            share = 100 * self.channels_removed / self.channels
            lines.append(f"  channels removed: {self.channels_removed} of {self.channels} ({share:.1f} %).")
        return [*lines, *self._imbalance()]

    def _imbalance(self) -> list[str]:
        """Say where a cut costs far more weights than it saves cycles."""
        before, after = self.before, self.after
        weights = 1 - after.weight_bytes / before.weight_bytes if before.weight_bytes else 0.0
        saved = 1 - after.cycles / before.cycles
        if weights < max(_MUCH, 2 * saved):
            return []
        pairs = zip(before.layers, after.layers, strict=True)
        held = sorted(
            (new for old, new in pairs if old.cycles == new.cycles), key=lambda layer: -layer.cycles
        )
        share = sum(layer.cycles for layer in held) / after.cycles
        where = f"{', '.join(layer.name for layer in held[:3])} lose none and hold {100 * share:.0f} % of the rest"
        return [
            f"  {100 * weights:.0f} % of the weights go for {100 * saved:.0f} % of the cycles{': ' * bool(held)}"
            f"{where if held else ''}. Asking for less may keep most weights."
        ]


def _moved(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"


def _percent(new: int, old: int) -> str:
    return f"{100 * new / old - 100:+.1f} %" if old else "0 %"
