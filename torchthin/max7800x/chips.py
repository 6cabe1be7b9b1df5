"""The chips: their sizes and limits as numbers, each with its source. Another chip is a value and a registration.

Sources, by letter: D = the device description of ADI's ai8x-synthesis (izer/tornadocnn.py at ab4f4c0), R = its README,
B = its checks (izer/backend/max7800x.py, izer/izer.py), K = its loaders (izer/kernels.py, izer/kbias.py), T = ai8x.py of
ai8x-training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torchthin.errors import ConfigError, near_matches

WORD_BITS = 72
"""A kernel word holds nine weights of 8 bits."""
WORD_BYTES = WORD_BITS // 8


@dataclass(frozen=True, kw_only=True)
class ChipSpec:
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
    """Bias memory of a quadrant, which holds all biases of a layer."""
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
    depthwise: bool
    """Whether a convolution may have as many conv groups as channels."""
    depthwise_blocks: tuple[int, ...]
    """Blocks of words, in order, that the kernels of a depthwise layer may not cross; empty: no such limit."""
    pools_many_channels_alone: bool
    """Whether a layer that only pools may have more channels than `processors`."""
    reads_gaps: bool
    """Whether a layer can read a map that was written with gaps for an element-wise operation."""
    pads_wide_conv1d: bool
    """Whether a 1-d convolution with padding may have more inputs than `processors`."""
    bias_after_eltwise: bool
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


_CHIPS: dict[str, ChipSpec] = {}


def register_chip(chip: ChipSpec) -> ChipSpec:
    """Make `chip` known by its name, which is in capitals, and return it.

    Raises:
        ConfigError: there is a chip of that name.
    """
    if chip.name in _CHIPS:
        raise ConfigError(f"The chip {chip.name} is registered already. Give it another name.")
    _CHIPS[chip.name] = chip
    return chip


def list_chips() -> tuple[str, ...]:
    """Return the names of the chips that are registered."""
    return tuple(_CHIPS)


def chip_named(name: str) -> ChipSpec:
    """Return the chip called `name`, in capitals or not.

    Raises:
        ConfigError: there is none, with those there are.
    """
    chip = _CHIPS.get(name.upper())
    if chip is None:
        hint = near_matches(name.upper(), _CHIPS)
        raise ConfigError(f"The chip must be one of {', '.join(_CHIPS)}. Got {name!r}.{hint}")
    return chip


MAX78000 = register_chip(
    ChipSpec(
        name="MAX78000",
        clock_hz=50_000_000,  # D: APB_SPEED, the accelerator's clock without PLL
        cycles_exact=True,  # D: SUPPORT_LATENCY_CALC
        processors=64,  # D: P_NUMPRO * P_NUMGROUPS
        processors_per_quadrant=16,  # D: P_NUMPRO
        processors_per_memory=4,  # D: P_SHARED
        kernel_words=768,  # D: MASK_WIDTH_SMALL
        large_kernel_words=768,  # D: MASK_WIDTH_LARGE, no larger memories on this chip
        large_processors=frozenset(),
        bias_bytes=512,  # D: BIAS_SIZE; K: one layer's biases lie in one quadrant
        data_bytes=32_768,  # D: INSTANCE_WIDTH * 16; the check that refuses is in B
        layers=32,  # D: MAX_LAYERS
        channels=1_024,  # D: MAX_CHANNELS; for the MAX78002 R says 2,048, which the tool refuses
        rows_columns=1_023,  # R; D has one more (MAX_ROW_COL)
        conv1d_kernel=9,  # R, T
        pool_size=16,  # R, T
        pool_stride=16,  # R
        pool_dilation=1,  # D: MAX_POOL_DILATION
        flatten_pixels=256,  # B
        flatten_features=16_384,  # R
        linear_features=1_024,  # R, T
        operands=16,  # R
        depthwise=False,  # D: SUPPORT_DEPTHWISE
        depthwise_blocks=(),  # D: REQUIRE_WEIGHT_MASK
        pools_many_channels_alone=False,  # D: MAX_POOL_PASSES
        reads_gaps=False,  # D: SUPPORT_MULTIPASS_STRIDE
        pads_wide_conv1d=True,  # D: SUPPORT_MULTIPASS_PADDED_CONV1D
        bias_after_eltwise=True,  # D: SUPPORT_MULTIPASS_ELTWISE_CONV_BIAS
        reads_operands_as_passes=True,  # D: EMULATE_ELTWISE_MP
        flatten_bias_first=True,  # D: REQUIRE_FLATTEN_BIAS_FIRST
        reads_before_writing=True,  # D: REQUIRE_MP_KERNOFF_MULTIWRITE
    )
)

MAX78002 = register_chip(
    replace(
        MAX78000,
        name="MAX78002",
        clock_hz=200_000_000,  # D: PLL_SPEED
        cycles_exact=False,  # D: SUPPORT_LATENCY_CALC is off
        kernel_words=4_096,  # D: MASK_WIDTH_SMALL
        large_kernel_words=5_120,  # D: MASK_WIDTH_LARGE
        large_processors=frozenset({0, 16, 32, 48}),  # D: mask_large
        bias_bytes=2_048,  # D: BIAS_SIZE
        data_bytes=81_920,  # D: INSTANCE_WIDTH * 16
        layers=128,  # D: MAX_LAYERS
        rows_columns=2_047,  # R; D has one more (MAX_ROW_COL)
        pool_dilation=16,  # D: MAX_POOL_DILATION
        depthwise=True,  # D: SUPPORT_DEPTHWISE
        depthwise_blocks=(1_024,) * 4 + (256,) * 4,  # D: MASK_INSTANCE_LARGE, MASK_INSTANCE_SMALL
        pools_many_channels_alone=True,  # D: MAX_POOL_PASSES
        reads_gaps=True,  # D: SUPPORT_MULTIPASS_STRIDE
        pads_wide_conv1d=False,  # D: SUPPORT_MULTIPASS_PADDED_CONV1D
        bias_after_eltwise=False,  # D: SUPPORT_MULTIPASS_ELTWISE_CONV_BIAS; B refuses one pass as well
        reads_operands_as_passes=False,  # D: EMULATE_ELTWISE_MP
        flatten_bias_first=False,  # D: REQUIRE_FLATTEN_BIAS_FIRST
        reads_before_writing=False,  # D: REQUIRE_MP_KERNOFF_MULTIWRITE
    )
)
