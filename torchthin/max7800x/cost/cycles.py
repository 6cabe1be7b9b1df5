"""Cycles of a layer, as ADI's tool estimates them.

Input channels work in parallel, outputs one after the other: about rows * columns * input passes * (output slots + pooling area +
1). Kernel size hardly counts, and multiply-accumulates not at all. Excluded, as there: loading of weights and input, unloading.
The formula is that of ai8x-synthesis (izer/latency.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.layer import Layer, Size, output_slots, passes

START_CYCLES = 1
"""Of a network, in addition to its layers."""
_FLATTEN_THRESHOLD = 16


@dataclass(frozen=True)
class _Reading:
    """Cycles of reading, in one layer."""

    pad: int
    """One pixel of padding."""
    data: int
    """One pixel of data."""
    repeats: int
    """How often each column of data is read."""


def cycles(layer: Layer, chip: ChipSpec, kernel_offset: int = 0, first_processor: int = 0) -> int:
    """Return the cycles of `layer`.

    Args:
        layer: what runs.
        chip: where it runs.
        kernel_offset: first word of the layer's kernels; matters only for pooling after an element-wise operation.
        first_processor: first one that reads its input; matters only without kernels.
    """
    layer = layer.as_executed()
    if layer.kind == "passthrough":
        return _passthrough(layer, chip, first_processor)
    if layer.flatten:
        return _flatten(layer, chip)
    return _convolution(layer, chip, kernel_offset)


def _reading(layer: Layer, input_passes: int) -> _Reading:
    area = layer.pool[0] * layer.pool[1]
    if layer.pool_first or not layer.pools:
        per_pass = input_passes * layer.operands
        return _Reading(2 * per_pass, per_pass * (area + 1), 1)
    return _Reading(2 * input_passes, input_passes * (layer.operands * area + 1), input_passes)


def _passthrough(layer: Layer, chip: ChipSpec, first: int) -> int:
    """Nothing is convolved: read, pool, combine, write."""
    count, processors = passes(layer.in_channels, chip)
    if layer.pools and passes(layer.out_channels, chip)[0] > 1:
        count = 2 * count - 1
    quadrants = Counter(number // chip.processors_per_quadrant for number in range(first, first + processors))
    fullest = max(quadrants.values())
    slots = -(-fullest // chip.processors_per_memory)  # words of 32 bits that the fullest quadrant writes
    rows, columns = layer.pooled_size
    return rows * columns * (_reading(layer, count).data + count * slots)


def _flatten(layer: Layer, chip: ChipSpec) -> int:
    count, _ = passes(layer.in_channels, chip)
    rows, columns = layer.in_size
    row = columns * _reading(layer, count).data + count * columns * layer.out_channels
    single = layer.out_channels if layer.out_channels == 1 and count == 1 else 0
    return (row + single) * rows + (1 if count * rows * columns > _FLATTEN_THRESHOLD else 0)


def _hardware_geometry(layer: Layer) -> tuple[Size, Size]:
    """Return size and padding of what is convolved; a transposed convolution stretches its input."""
    if layer.kind != "convtranspose2d":
        return layer.pooled_size, layer.padding
    (rows, columns), (row_stride, column_stride) = layer.pooled_size, layer.stride
    padding = tuple(
        d * (k - 1) - p for d, k, p in zip(layer.dilation, layer.kernel, layer.padding, strict=True)
    )
    return (rows * row_stride, columns * column_stride), (padding[0], padding[1])


def _convolution(layer: Layer, chip: ChipSpec, kernel_offset: int) -> int:
    count, _ = passes(layer.in_channels, chip)
    slots = 1 if layer.depthwise else output_slots(layer.out_channels, chip, layer.idle_slots)
    (rows, columns), (row_pad, column_pad) = _hardware_geometry(layer)
    kernel_rows, kernel_columns = layer.kernel
    out_columns = layer.out_size[1]
    read = _reading(layer, count)
    pad_start, data_start = read.pad + 1, read.data + 1

    writing = count * out_columns * slots + (slots if slots == 1 and count == 1 else 0)
    sides = 2 * column_pad * pad_start
    top = row_pad * (sides + read.repeats * columns * pad_start)
    unconvolved = kernel_rows - 1 - row_pad
    head = unconvolved * (sides + read.repeats * columns * data_start)
    left, right = column_pad * pad_start, column_pad * read.pad
    before, after = kernel_columns - 1 - column_pad, out_columns - column_pad
    row = left + read.repeats * (before * data_start + after * read.data) + right + writing
    bottom_row = left + read.repeats * (before * pad_start + after * read.pad) + right + writing
    body = row * (rows - unconvolved) + row_pad * bottom_row
    return _reading_ahead(layer, chip, count, kernel_offset) + top + head + body


def _reading_ahead(layer: Layer, chip: ChipSpec, count: int, kernel_offset: int) -> int:
    """Cycles before the first output, when pooling comes after an element-wise operation."""
    late = layer.pools and not layer.pool_first
    if not (late and chip.reads_before_writing and (count > 1 or layer.operands > 1)):
        return 0
    (rows, columns), (row_pad, column_pad) = _hardware_geometry(layer)
    kernel_rows, kernel_columns = layer.kernel
    along_rows = (rows + 2 * row_pad - kernel_columns + 1) * column_pad
    along_columns = (columns + 2 * column_pad - kernel_rows + 1) * row_pad
    return (along_rows + along_columns - row_pad * column_pad) * kernel_offset
