"""A model on a chip -> text: a table of layers, totals, then what is in the way."""

from __future__ import annotations

from rich import box
from rich.table import Table

from torchthin.chips.network import LayerCost, NetworkCost
from torchthin.report.chip_facts import ChipReport
from torchthin.report.text import table_lines

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
            *table_lines(_table(cost)),
            "",
            _weights(cost),
            _cycles(cost),
            *(f"Note: {note}." for note in report.notes),
            *(f"Computed by the host, not counted: {item}." for item in report.outside),
            *_verdict(report),
        ]
    )


def _table(cost: NetworkCost) -> Table:
    table = Table(box=box.MARKDOWN)
    table.add_column("layer")
    table.add_column("kind")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for layer in cost.layers:
        table.add_row(layer.name, layer.kind, *_cells(layer))
    return table


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
