"""A layer as a chip sees it: element-wise operation and pooling on the way in, convolution, activation on the way out.

Channels beyond 64 are worked off in passes. A layer's kernels take the same number of words in every processor it uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torchthin.max7800x.chips import WORD_BITS, WORD_BYTES, ChipSpec

Kind = Literal["conv2d", "conv1d", "convtranspose2d", "linear", "passthrough"]
Size = tuple[int, int]
Eltwise = Literal["add", "sub", "xor", "or"]
PoolMode = Literal["max", "average"]
INPUT = -1
"""The network's input, among the numbers of the layers that a layer reads."""
WEIGHT_BITS = (1, 2, 4, 8)
WeightBits = int | Mapping[str, int]
"""Of layers that do not say it themselves: of all, or module path -> bits, and 8 of those that are not in it."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Sizes are (rows, columns); a 1-d layer has one column. Units: channels, pixels, bits."""

    name: str
    kind: Kind
    in_channels: int
    """Channels of one operand; of all parts together where they are concatenated."""
    out_channels: int
    in_size: Size
    """Before pooling."""
    kernel: Size = (1, 1)
    padding: Size = (0, 0)
    stride: Size = (1, 1)
    dilation: Size = (1, 1)
    conv_groups: int = 1
    pool: Size = (1, 1)
    pool_stride: Size = (1, 1)
    pool_mode: PoolMode = "max"
    pool_dilation: Size = (1, 1)
    operands: int = 1
    """Feature maps of an element-wise operation."""
    eltwise: Eltwise | None = None
    pool_first: bool = True
    """Whether operands are pooled before they are combined."""
    flatten: bool = False
    """A linear layer over all pixels of a feature map."""
    bias: bool = True
    activation: Literal["relu", "abs"] | None = None
    weight_bits: int = 8
    wide: bool = False
    """Outputs of 32 bits."""
    sources: tuple[int, ...] = (INPUT,)
    """Numbers of the layers it reads: one for each operand, or the parts of a concatenation."""
    idle_slots: int = 0
    """Processors within the output's map, counted from a multiple of 4, that get no output: each costs what an output costs."""
    shares: int | None = None
    """Number of an earlier layer with the same weights; where processors agree they are stored once."""
    shares_bias: bool | None = None
    """Whether an earlier layer has the same biases; None: the layer that has the same weights."""

    @property
    def pooled_size(self) -> Size:
        """Size after the pooling."""
        return pooled_size(self.in_size, self.pool, self.pool_stride, self.pool_dilation)

    @property
    def out_size(self) -> Size:
        """Size of the output."""
        if self.flatten or self.kind == "passthrough":
            return (1, 1) if self.flatten else self.pooled_size
        sizes = zip(self.pooled_size, self.kernel, self.padding, self.stride, self.dilation, strict=True)
        if self.kind == "convtranspose2d":  # the chip's output padding is always 1
            rows, columns = ((n - 1) * s - 2 * p + d * (k - 1) + 2 for n, k, p, s, d in sizes)
        else:
            rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in sizes)
        return rows, columns

    @property
    def kernel_area(self) -> int:
        """Weights of one kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def has_weights(self) -> bool:
        """Whether there are kernels."""
        return self.kind != "passthrough"

    @property
    def pools(self) -> bool:
        """Whether pooling combines pixels."""
        return self.pool != (1, 1)

    @property
    def one_axis(self) -> bool:
        """Whether it works on sequences, so that only the first of two sizes counts."""
        return self.kind == "conv1d" or self.in_size[1] == 1

    @property
    def concatenates(self) -> bool:
        """Whether its input is several maps side by side."""
        return len(self.sources) > 1 and self.operands == 1

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved alone."""
        return self.conv_groups > 1

    @property
    def weight_bytes(self) -> int:
        """What ADI's tool prints as weight memory: weights times bits, no padding. It does not decide whether they fit."""
        if not self.has_weights:
            return 0
        pixels = self.in_size[0] * self.in_size[1] if self.flatten else 1
        area = self.as_executed().kernel_area
        return (
            self.out_channels * self.in_channels // self.conv_groups * area * pixels * self.weight_bits // 8
        )

    @property
    def has_own_bias(self) -> bool:
        """Whether there are biases that no earlier layer has stored."""
        shared = self.shares is not None if self.shares_bias is None else self.shares_bias
        return bool(self.bias_bytes) and not shared

    @property
    def bias_bytes(self) -> int:
        """Bytes of the biases; they lie in one quadrant (depthwise: in every one that is used)."""
        return self.out_channels if self.bias and self.has_weights else 0

    def as_executed(self) -> Layer:
        """Return the layer in the form the chip executes it.

        A dilated 1-d convolution becomes a longer kernel, with zeros, where it fits nine taps; else the sequence is laid out in
        rows of `dilation` pixels and convolved with 3x3 kernels.
        """
        gap = self.dilation[0]
        if self.kind != "conv1d" or gap == 1:
            return self
        taps = (self.kernel[0] - 1) * gap + 1
        if taps <= 9:
            return replace(self, kernel=(taps, 1), dilation=(1, 1))
        rows = -(-self.pooled_size[0] // gap)
        return replace(
            self,
            kind="conv2d",
            kernel=(3, 3),
            padding=(1, 1),
            dilation=(1, 1),
            in_size=(rows, gap),
            pool=(1, 1),
            pool_stride=(1, 1),
            pool_dilation=(1, 1),
        )


def pooled_size(size: Size, pool: Size, stride: Size, dilation: Size) -> Size:
    """Return the size after pooling."""
    rows, columns = (
        (n + s - p - d + 1) // s for n, p, s, d in zip(size, pool, stride, dilation, strict=True)
    )
    return rows, columns


def round_up(number: int, multiple: int) -> int:
    """Round `number` up to a multiple.

    >>> round_up(13, 4), round_up(16, 4)
    (16, 16)
    """
    return -(-number // multiple) * multiple


def passes(channels: int, chip: ChipSpec) -> tuple[int, int]:
    """Return how many passes `channels` take, and the processors of a pass.

    >>> from torchthin.max7800x.chips import MAX78000
    >>> passes(63, MAX78000), passes(64, MAX78000), passes(65, MAX78000), passes(100, MAX78000)
    ((1, 63), (1, 64), (2, 36), (2, 52))
    """
    count = -(-channels // chip.processors)
    each = -(-channels // count)
    return count, each if count == 1 else min(round_up(each, chip.processors_per_memory), chip.processors)


def output_slots(channels: int, chip: ChipSpec, idle: int = 0) -> int:
    """Return the output channels that are computed, padding included. idle: see `Layer.idle_slots`.

    >>> from torchthin.max7800x.chips import MAX78000
    >>> output_slots(64, MAX78000), output_slots(65, MAX78000), output_slots(72, MAX78000)
    (64, 72, 72)
    """
    count, each = passes(channels, chip)
    return count * (each + idle)


def kernel_words(layer: Layer, chip: ChipSpec) -> int:
    """Return the words of the layer's kernels in each processor that it uses; 0 without weights.

    A word holds nine weights of 8 bits, more of fewer bits.
    """
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
        kernels = output_slots(layer.out_channels, chip, layer.idle_slots) * in_passes
    per_byte = 8 // layer.weight_bits
    left_over = (kernels % per_byte) * area * (per_byte - 1)
    return -(-(kernels * area * layer.weight_bits + left_over) // WORD_BITS)


def written_words(layer: Layer, chip: ChipSpec) -> int:
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
