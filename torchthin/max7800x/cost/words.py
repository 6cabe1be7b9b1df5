"""Kernel words, processors and bias bytes of a layer.

Channels beyond 64 are worked off in passes. A layer's kernels take the same number of words in every processor it uses; a word
holds nine weights of 8 bits, more of fewer bits.
"""

from __future__ import annotations

from torchthin.max7800x.cost.chip import WORD_BITS, WORD_BYTES, Chip
from torchthin.max7800x.cost.layer import Layer


def up(number: int, multiple: int) -> int:
    """Round `number` up to a multiple.

    >>> up(13, 4), up(16, 4)
    (16, 16)
    """
    return -(-number // multiple) * multiple


def passes(channels: int, chip: Chip) -> tuple[int, int]:
    """Return how many passes `channels` take, and the processors of a pass.

    >>> from torchthin.max7800x.cost.table import MAX78000
    >>> passes(63, MAX78000), passes(64, MAX78000), passes(65, MAX78000), passes(100, MAX78000)
    ((1, 63), (1, 64), (2, 36), (2, 52))
    """
    count = -(-channels // chip.processors)
    each = -(-channels // count)
    return count, each if count == 1 else min(up(each, chip.processors_per_memory), chip.processors)


def output_slots(channels: int, chip: Chip) -> int:
    """Return the output channels that are computed, padding included.

    >>> from torchthin.max7800x.cost.table import MAX78000
    >>> output_slots(64, MAX78000), output_slots(65, MAX78000), output_slots(72, MAX78000)
    (64, 72, 72)
    """
    count, each = passes(channels, chip)
    return count * each


def kernel_words(layer: Layer, chip: Chip) -> int:
    """Return the words of the layer's kernels in each processor that it uses; 0 without weights."""
    layer = layer.as_executed()
    if not layer.has_weights:
        return 0
    in_passes, _ = passes(layer.in_channels, chip)
    area = layer.kernel_area
    if layer.flatten:
        kernels, area = layer.out_channels * layer.in_size[0] * layer.in_size[1] * in_passes, 1
    elif layer.depthwise:
        kernels = in_passes
    else:
        kernels = output_slots(layer.out_channels, chip) * in_passes
    per_byte = 8 // layer.weight_bits
    left_over = (kernels % per_byte) * area * (per_byte - 1)
    return -(-(kernels * area * layer.weight_bits + left_over) // WORD_BITS)


def written_words(layer: Layer, chip: Chip) -> int:
    """Return the words that ADI's tool writes for the layer, at least `kernel_words`.

    Kernels of less than 8 bits are packed output by output; an output count that does not fill the last byte makes it write more
    words than it reports.
    """
    layer = layer.as_executed()
    reported = kernel_words(layer, chip)
    if not layer.has_weights or layer.flatten or layer.depthwise:
        return reported
    (out_passes, each), (in_passes, _) = passes(layer.out_channels, chip), passes(layer.in_channels, chip)
    per_byte = 8 // layer.weight_bits
    steps = out_passes * -(-each // per_byte)
    used = min(steps, -(-layer.out_channels // per_byte))
    written = in_passes * (used * layer.kernel_area + (steps - used) * (layer.kernel_area // per_byte))
    return max(reported, -(-written // WORD_BYTES))


def weight_bytes(layer: Layer) -> int:
    """Return what ADI's tool prints as weight memory: weights times bits, no padding. It does not decide whether they fit."""
    return layer.as_executed().weight_count * layer.weight_bits // 8


def bias_bytes(layer: Layer) -> int:
    """Return the bytes of the layer's biases; they lie in one quadrant (depthwise: in every one that is used)."""
    return layer.out_channels if layer.bias and layer.has_weights else 0
