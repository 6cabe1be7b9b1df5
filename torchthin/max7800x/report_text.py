"""A model on a chip -> text: a table of layers, totals, then what is in the way."""

from __future__ import annotations

from torchthin.max7800x.cost.network import LayerCost, NetworkCost
from torchthin.max7800x.report import ChipChange, ChipReport
from torchthin.report.tables import table

_HEADINGS = (
    "channels",
    "passes",
    "processors",
    "words",
    "at word",
    "bias",
    "memory in",
    "memory out",
    "cycles",
)


def chip_text(report: ChipReport) -> str:
    """Return the table of layers, the totals and all remarks as plain lines."""
    cost = report.cost
    return "\n".join(
        [
            *_table(cost),
            "",
            _weights(cost),
            _cycles(cost),
            *(f"Note: {note}." for note in report.notes),
            *(f"Computed by the host, not counted: {item}." for item in report.outside),
            *_verdict(report),
        ]
    )


def _table(cost: NetworkCost) -> list[str]:
    rows = [(layer.name, layer.kind, *_cells(layer)) for layer in cost.layers]
    return table(("layer", "kind", *_HEADINGS), rows, left=(0, 1))


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


def _weights(cost: NetworkCost) -> str:
    share = 100 * cost.deepest_words / cost.kernel_capacity
    return (
        f"Kernel memory: {cost.kernel_words:,} words in all; deepest processor {cost.deepest_words:,} of "
        f"{cost.kernel_capacity:,} ({share:.1f} %). ADI's tool prints {cost.weight_bytes:,} bytes of weights, "
        f"{cost.bias_bytes:,} of biases."
    )


def _cycles(cost: NetworkCost) -> str:
    guide = "" if cost.cycles_exact else "; a guide only, ADI's tool gives none for this chip"
    return (
        f"Cycles: {cost.cycles:,}, {cost.latency_ms:.2f} ms at {cost.clock_hz / 1e6:g} MHz, without loading and "
        f"unloading{guide}."
    )


def _verdict(report: ChipReport) -> list[str]:
    cost = report.cost
    if report.fits:
        moved = " with feature maps moved from processor 0, as the table says" if cost.moved else ""
        return [f"Fits {cost.chip}{moved}."]
    counted = "" if all(layer.runs for layer in cost.layers) else " Layers that cannot run are not counted."
    if report.unmapped:
        counted = " Figures are for the layers that map."
    return [f"Does not fit {cost.chip}.{counted}", *(f"  {text}." for text in report.obstacles)]


def change_text(change: ChipChange) -> str:
    """Return the table of layers before and after, and the totals beside those of a uniform cut."""
    rows = [
        (
            old.name,
            _moved(f"{old.in_channels} to {old.out_channels}", f"{new.in_channels} to {new.out_channels}"),
            _moved(f"{old.kernel_words:,}", f"{new.kernel_words:,}"),
            _moved(f"{old.cycles:,}", f"{new.cycles:,}"),
            f"{old.cycles - new.cycles:,}",
        )
        for old, new in zip(change.before.layers, change.after.layers, strict=True)
    ]
    lines = table(("layer", "channels", "words", "cycles", "cycles saved"), rows)
    return "\n".join([*lines, "", *_totals(change)])


def _moved(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"


def _totals(change: ChipChange) -> list[str]:
    before, after, uniform = change.before, change.after, change.uniform
    fits = "fits" if after.fits else f"does not fit: {after.violations[0]}"
    guide = "" if after.cycles_exact else " Cycles of this chip are a guide."
    lines = [f"{before.chip}, asked {change.asked}; the result {fits}.{guide}"]
    figures = (
        ("cycles", before.cycles, after.cycles, uniform.cycles),
        ("words of the deepest processor", before.deepest_words, after.deepest_words, uniform.deepest_words),
        ("weight bytes", before.weight_bytes, after.weight_bytes, uniform.weight_bytes),
    )
    for name, old, new, plain in figures:
        lines.append(
            f"  {name}: {old:,} -> {new:,} ({_percent(new, old)}); a uniform cut of "
            f"{100 * change.uniform_share:.0f} %: {plain:,} ({_percent(plain, old)})."
        )
    gone = (
        f"{change.channels_gone} of {change.channels} ({100 * change.channels_gone / change.channels:.1f} %)"
    )
    return [*lines, f"  channels gone: {gone}."] if change.sparsity_asked else lines


def _percent(new: int, old: int) -> str:
    return f"{100 * new / old - 100:+.1f} %" if old else "0 %"
