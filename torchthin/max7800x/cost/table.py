"""The chips that are known: for another one, a value and a registration.

Sources, by letter: D = the device description of ADI's ai8x-synthesis (izer/tornadocnn.py at ab4f4c0), R = its README,
B = its checks (izer/backend/max7800x.py, izer/izer.py), K = its loaders (izer/kernels.py, izer/kbias.py), T = ai8x.py of
ai8x-training.
"""

from __future__ import annotations

from torchthin.errors import ConfigError, near_matches
from torchthin.max7800x.cost.chip import Chip

_CHIPS: dict[str, Chip] = {}


def register_chip(chip: Chip) -> Chip:
    """Make `chip` known by its name, and return it.

    Raises:
        ConfigError: there is a chip of that name.
    """
    if chip.name in _CHIPS:
        raise ConfigError(f"The chip {chip.name} is registered already. Give it another name.")
    _CHIPS[chip.name] = chip
    return chip


def chip_names() -> tuple[str, ...]:
    """Return the names of the chips that are known."""
    return tuple(_CHIPS)


def chip_named(name: str) -> Chip:
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
    Chip(
        name="MAX78000",
        clock_hz=50_000_000,  # D: APB_SPEED, the accelerator's clock without PLL
        cycles_exact=True,  # D: SUPPORT_LATENCY_CALC
        processors=64,  # D: P_NUMPRO * P_NUMGROUPS
        processors_per_quadrant=16,  # D: P_NUMPRO
        processors_per_memory=4,  # D: P_SHARED
        kernel_words=768,  # D: MASK_WIDTH_SMALL
        large_kernel_words=768,  # D: MASK_WIDTH_LARGE, no larger memories on this chip
        large_processors=frozenset(),
        bias_bytes=512,  # D: BIAS_SIZE
        data_bytes=32_768,  # D: INSTANCE_WIDTH * 16; the check that refuses is in B
        layers=32,  # D: MAX_LAYERS
        channels=1_024,  # D: MAX_CHANNELS
        rows_columns=1_023,  # R; D has one more (MAX_ROW_COL)
        conv1d_kernel=9,  # R, T
        pool_size=16,  # R, T
        pool_stride=16,  # R
        pool_dilation=1,  # D: MAX_POOL_DILATION
        flatten_pixels=256,  # B
        flatten_features=16_384,  # R
        linear_features=1_024,  # R, T
        operands=16,  # R
        biased_channels=512,  # K: one layer's biases lie in one quadrant
        depthwise=False,  # D: SUPPORT_DEPTHWISE
        depthwise_blocks=(),  # D: REQUIRE_WEIGHT_MASK
        pools_alone_beyond_parallel=False,  # D: MAX_POOL_PASSES
        reads_gaps=False,  # D: SUPPORT_MULTIPASS_STRIDE
        pads_wide_conv1d=True,  # D: SUPPORT_MULTIPASS_PADDED_CONV1D
        biases_behind_eltwise=True,  # D: SUPPORT_MULTIPASS_ELTWISE_CONV_BIAS
        reads_operands_as_passes=True,  # D: EMULATE_ELTWISE_MP
        flatten_bias_first=True,  # D: REQUIRE_FLATTEN_BIAS_FIRST
        reads_before_writing=True,  # D: REQUIRE_MP_KERNOFF_MULTIWRITE
    )
)

MAX78002 = register_chip(
    Chip(
        name="MAX78002",
        clock_hz=200_000_000,  # D: PLL_SPEED
        cycles_exact=False,  # D: SUPPORT_LATENCY_CALC is off
        processors=64,  # D: P_NUMPRO * P_NUMGROUPS
        processors_per_quadrant=16,  # D: P_NUMPRO
        processors_per_memory=4,  # D: P_SHARED
        kernel_words=4_096,  # D: MASK_WIDTH_SMALL
        large_kernel_words=5_120,  # D: MASK_WIDTH_LARGE
        large_processors=frozenset({0, 16, 32, 48}),  # D: mask_large
        bias_bytes=2_048,  # D: BIAS_SIZE
        data_bytes=81_920,  # D: INSTANCE_WIDTH * 16; the check that refuses is in B
        layers=128,  # D: MAX_LAYERS
        channels=1_024,  # D: MAX_CHANNELS; R says 2,048, the tool refuses that
        rows_columns=2_047,  # R; D has one more (MAX_ROW_COL)
        conv1d_kernel=9,  # R, T
        pool_size=16,  # R, T
        pool_stride=16,  # R
        pool_dilation=16,  # D: MAX_POOL_DILATION
        flatten_pixels=256,  # B
        flatten_features=16_384,  # R
        linear_features=1_024,  # R, T
        operands=16,  # R
        biased_channels=2_048,  # K: one layer's biases lie in one quadrant
        depthwise=True,  # D: SUPPORT_DEPTHWISE
        depthwise_blocks=(1_024,) * 4 + (256,) * 4,  # D: MASK_INSTANCE_LARGE, MASK_INSTANCE_SMALL
        pools_alone_beyond_parallel=True,  # D: MAX_POOL_PASSES
        reads_gaps=True,  # D: SUPPORT_MULTIPASS_STRIDE
        pads_wide_conv1d=False,  # D: SUPPORT_MULTIPASS_PADDED_CONV1D
        biases_behind_eltwise=False,  # D: SUPPORT_MULTIPASS_ELTWISE_CONV_BIAS; B refuses one pass as well
        reads_operands_as_passes=False,  # D: EMULATE_ELTWISE_MP
        flatten_bias_first=False,  # D: REQUIRE_FLATTEN_BIAS_FIRST
        reads_before_writing=False,  # D: REQUIRE_MP_KERNOFF_MULTIWRITE
    )
)
