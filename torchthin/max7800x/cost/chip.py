"""The form of a chip: its sizes and its limits, as numbers."""

from __future__ import annotations

from dataclasses import dataclass

WORD_BITS = 72
"""A kernel word holds nine weights of 8 bits."""
WORD_BYTES = WORD_BITS // 8


@dataclass(frozen=True, kw_only=True)
class Chip:
    """An accelerator of the MAX7800x kind: processors in quadrants, each with a kernel memory of its own."""

    name: str
    clock_hz: int
    """Clock of the accelerator as ADI's tool sets it up."""
    cycles_exact: bool
    """Whether the cycles are those that ADI's tool prints; False: it prints none, ours are a guide."""
    processors: int
    """Also the number of channels that work in parallel."""
    processors_per_quadrant: int
    processors_per_memory: int
    """Neighbours that share one data memory; maps start at a multiple of it."""
    kernel_words: int
    """Words of 72 bits in the kernel memory of a processor."""
    large_kernel_words: int
    """The same for the `large_processors`."""
    large_processors: frozenset[int]
    bias_bytes: int
    """Bias memory of a quadrant."""
    data_bytes: int
    """One data memory."""
    layers: int
    channels: int
    """Most input or output channels of a layer."""
    rows_columns: int
    """Most rows or columns of a feature map."""
    conv1d_kernel: int
    """Longest kernel of a 1-d convolution."""
    pool_size: int
    pool_stride: int
    pool_dilation: int
    flatten_pixels: int
    """Most pixels of a feature map that a linear layer flattens."""
    flatten_features: int
    """Most features it gets that way."""
    linear_features: int
    """Most features of a linear layer otherwise, in and out."""
    operands: int
    """Most operands of an element-wise operation."""
    biased_channels: int
    """Most output channels of a layer with a bias."""
    depthwise: bool
    """Whether a convolution may have as many conv groups as channels."""
    depthwise_blocks: tuple[int, ...]
    """Blocks of words, in order, that the kernels of a depthwise layer may not cross; empty: no such limit."""
    pools_alone_beyond_parallel: bool
    """Whether a layer that only pools may have more channels than `processors`."""
    reads_gaps: bool
    """Whether a layer can read a map that was written with gaps for an element-wise operation."""
    pads_wide_conv1d: bool
    """Whether a 1-d convolution with padding may have more inputs than `processors`."""
    biases_behind_eltwise: bool
    """Whether a convolution with a bias may do an element-wise operation on the way in."""
    reads_operands_as_passes: bool
    """Whether operands count as passes: with more channels than `processors` a convolution takes two operands in two passes."""
    flatten_bias_first: bool
    """Whether biases of flattening layers are placed before all others."""
    reads_before_writing: bool
    """Whether pooling after an element-wise operation first reads as far as the layer's kernels lie deep."""

    def kernel_capacity(self, processor: int) -> int:
        """Return the words in the kernel memory of `processor`."""
        return self.large_kernel_words if processor in self.large_processors else self.kernel_words

    @property
    def quadrants(self) -> int:
        """Number of quadrants."""
        return self.processors // self.processors_per_quadrant
