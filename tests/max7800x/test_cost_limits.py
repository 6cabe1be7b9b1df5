"""What a chip cannot run is said in one line that names the layer and the limit."""

from dataclasses import replace

import pytest
from networks import FULL, conv, pose

from torchthin.errors import ConfigError
from torchthin.max7800x.chips import MAX78000, MAX78002, ChipSpec, chip_named, list_chips, register_chip
from torchthin.max7800x.cost.layer import Layer
from torchthin.max7800x.cost.limits import network_violations, violations
from torchthin.max7800x.cost.network import network_cost

PLAIN = conv(8, 8, name="net.layer")
ALONE = Layer(name="p", kind="passthrough", in_channels=8, out_channels=8, in_size=(8, 8), bias=False)
LINEAR = Layer(name="fc", kind="linear", in_channels=8, out_channels=8, in_size=(1, 1))
SEQUENCE = Layer(name="s", kind="conv1d", in_channels=8, out_channels=8, in_size=(64, 1), kernel=(3, 1))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (replace(PLAIN, kernel=(5, 5)), "kernel 5x5; allowed is 1x1 or 3x3"),
        (replace(PLAIN, stride=(2, 2)), "stride 2x2; it must be 1"),
        (replace(PLAIN, dilation=(2, 2)), "dilation 2x2"),
        (replace(PLAIN, padding=(3, 3)), "padding 3x3"),
        (replace(PLAIN, kernel=(1, 1)), "smaller than the kernel"),
        (replace(PLAIN, conv_groups=8), "8 conv groups; MAX78000 runs layers with one only"),
        (replace(PLAIN, out_channels=1025, bias=False), "1025 output channels; MAX78000 has at most 1024"),
        (replace(PLAIN, out_channels=600), "600 outputs with a bias; at most 512"),
        (replace(PLAIN, weight_bits=3), "weights of 3 bits"),
        (replace(PLAIN, in_size=(1030, 8)), "at most 1023 rows and columns"),
        (replace(PLAIN, in_size=(4, 4), pool=(5, 5), pool_stride=(5, 5)), "leaves nothing"),
        (replace(PLAIN, wide=True, activation="relu"), "32 bits with an activation"),
        (replace(PLAIN, pool=(17, 1)), "pooling over 17x1"),
        (replace(PLAIN, pool=(2, 2), pool_stride=(2, 1)), "pooling stride 2x1"),
        (replace(PLAIN, pool=(2, 2), pool_dilation=(2, 2)), "pooling dilation 2x2; at most 1"),
        (replace(PLAIN, kind="convtranspose2d"), "stride 1x1; it must be 2"),
        (replace(PLAIN, operands=17, eltwise="add", sources=tuple(range(17))), "17 operands; at most 16"),
        (
            replace(PLAIN, in_channels=150, operands=2, eltwise="add", sources=(0, 1)),
            "two operands of at most 128",
        ),
        (replace(ALONE, activation="relu"), "relu without a convolution"),
        (replace(ALONE, wide=True), "32 bits without a convolution"),
        (replace(ALONE, in_channels=65, out_channels=65, pool=(2, 2)), "pooling of 65 channels without"),
        (replace(LINEAR, in_channels=2000), "2000 to 8 features; at most 1024"),
        (replace(LINEAR, in_size=(2, 2)), "flatten it first"),
        (replace(LINEAR, in_size=(17, 17), flatten=True), "at most 256 pixels"),
        (replace(LINEAR, in_channels=128, in_size=(16, 16), flatten=True), "32768 features; at most 16384"),
        (replace(LINEAR, in_channels=100, in_size=(2, 2), flatten=True), "a multiple of 8"),
        (replace(SEQUENCE, kernel=(10, 1)), "kernel 10; at most 9"),
        (replace(SEQUENCE, stride=(2, 1)), "stride 2"),
        (replace(SEQUENCE, dilation=(8, 1), padding=(1, 0)), "dilation 8 with kernel 3"),
        (replace(SEQUENCE, operands=2, eltwise="add", sources=(0, 1)), "before a 1-d convolution"),
    ],
)
def test_a_layer_that_cannot_run(layer: Layer, words: str) -> None:
    (line,) = [text for text in violations(layer, MAX78000) if words in text]
    assert line.startswith(f"{layer.name}: ")
    assert "\n" not in line


@pytest.mark.parametrize("layer", [PLAIN, ALONE, LINEAR, SEQUENCE])
@pytest.mark.parametrize("chip", [MAX78000, MAX78002], ids=lambda chip: chip.name)
def test_layers_that_run(layer: Layer, chip: ChipSpec) -> None:
    assert violations(layer, chip) == ()


def test_chips_differ() -> None:
    assert violations(replace(PLAIN, conv_groups=8), MAX78002) == ()
    assert violations(replace(PLAIN, in_channels=16, conv_groups=8), MAX78002)
    summed = replace(PLAIN, operands=2, eltwise="add", sources=(0, 1))
    assert violations(summed, MAX78000) == ()
    assert violations(summed, MAX78002)
    assert violations(replace(summed, bias=False, in_channels=150), MAX78002) == ()
    alone = replace(ALONE, operands=2, eltwise="add", sources=(0, 1), in_channels=150, out_channels=150)
    assert violations(alone, MAX78000) == ()
    wide = replace(SEQUENCE, in_channels=65, padding=(1, 0))
    assert violations(wide, MAX78000) == ()
    assert violations(wide, MAX78002)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (pose((*FULL[:6], 192, 192, *FULL[8:])), "conv8: kernels of 576 words"),
        ([conv(64, 64, 80, name="a"), conv(64, 64, 80, source=0, name="b")], "MAX78000 has 32,768"),
        ([conv(64, 64, 100, name="a")], "a map of 100x100 from the input takes 40,000 bytes"),
        ([conv(8, 8, source=number - 1, name=str(number)) for number in range(33)], "33 layers"),
        (
            [conv(64, 500, source=number - 1, name=str(number), in_channels=64) for number in range(5)],
            "500 biases",
        ),
        (
            [conv(8, 8, name="a"), conv(8, 12, name="b"), replace(conv(20, 8, name="c"), sources=(0, 1))],
            "c: concatenates 8 + 12 channels",
        ),
    ],
)
def test_a_network_that_does_not_fit(layers: list[Layer], words: str) -> None:
    cost = network_cost(layers, MAX78000)
    assert not cost.fits
    assert any(words in line for line in cost.violations), cost.violations


def test_large_maps_fit_on_alternating_halves() -> None:
    """64 channels of 80x80 pixels do not fit, 32 do: input and output lie in different memories."""
    layers = [conv(32, 32, 80, name="a"), conv(32, 32, 80, source=0, name="b")]
    rows = network_cost(layers, MAX78000)
    assert rows.fits
    assert [row.first_processor for row in rows.layers] == [0, 32]


def test_an_input_that_only_fits_one_channel_a_memory() -> None:
    (row,) = network_cost([conv(3, 8, 128, pool=(2, 2), pool_stride=(2, 2))], MAX78000).layers
    assert row.input_bytes == 128 * 128


def test_a_new_chip_is_a_value_and_a_registration() -> None:
    with pytest.raises(ConfigError, match="registered already"):
        register_chip(MAX78000)
    half = replace(MAX78000, name="HALF", kernel_words=384, large_kernel_words=384)
    assert not network_cost(pose(), half).fits
    assert list_chips() == ("MAX78000", "MAX78002")
    assert chip_named("max78002") is MAX78002
    with pytest.raises(ConfigError, match="one of MAX78000, MAX78002"):
        chip_named("MAX78001")


@pytest.mark.parametrize(
    ("width", "parts", "allowed"),
    [(32, 2, True), (64, 2, True), (96, 2, False), (40, 3, False), (64, 3, True)],
)
def test_a_concatenation_of_several_passes_has_one_part_for_each(
    width: int, parts: int, allowed: bool
) -> None:
    """As squeezenet's 96 + 96, which ADI's tool refuses: 192 channels take three passes."""
    layers = [conv(3, width) for _ in range(parts)]
    joined = replace(conv(width * parts, 8), sources=tuple(range(parts)))
    found = network_violations([*layers, joined], MAX78000)
    assert any("one part for each pass" in text for text in found) is not allowed
