"""Which layers a model becomes: joined, folded, copied; and what does not map, by module path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pose_demo.student import pose_student
from torchthin.errors import InputError
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.max7800x.ai8x.base import fuse_batch_norm_, initiate_qat
from torchthin.max7800x.ai8x.layers import (
    Add,
    Conv2d,
    FusedAvgPoolConv2dReLU,
    FusedConv2dBNReLU,
    FusedMaxPoolConv2dReLU,
)
from torchthin.max7800x.chips import MAX78000, MAX78002
from torchthin.max7800x.cost.layer import INPUT, Layer
from torchthin.max7800x.cost.network import network_cost
from torchthin.max7800x.mapping import ChipMapping, map_model
from torchthin.max7800x.mapping.rules.contraction import folded_kernel
from torchthin.max7800x.report import chip_cost
from torchthin.max7800x.synthesis.files import ready_for_synthesis


class Net(nn.Module):
    """A module whose forward is a function of its layers."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, *given: torch.Tensor) -> Any:
        return self.function(self, *given)


def mapped(model: nn.Module, *shape: int, chip: Any = MAX78000, weight_bits: int = 8) -> ChipMapping:
    return map_model(trace(model.eval(), as_inputs(torch.randn(1, *shape))), chip, weight_bits)


def names(mapping: ChipMapping) -> list[str]:
    return [layer.name for layer in mapping.layers]


def conv(into: int, out: int, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, **{"padding": kernel // 2, **more})


@pytest.mark.parametrize("bits", [None, 4])
def test_the_pose_student_costs_what_the_tool_prints(bits: int | None) -> None:
    model = pose_student()
    if bits is not None:
        initiate_qat(model, bits)
    cost = chip_cost(model, torch.randn(1, 3, 128, 128)).cost
    assert cost.cycles == 745_665
    assert (cost.kernel_words, cost.deepest_words) == ((36_912, 729) if bits is None else (18_528, 367))
    assert cost.fits


def test_the_pose_student_layer_by_layer() -> None:
    mapping = mapped(pose_student(), 3, 128, 128)
    assert mapping.weights[:2] == ("conv1.op.weight", "conv2.op.weight")
    assert [layer.name for layer in mapping.layers if layer.pools] == ["conv4", "conv6"]
    assert [layer.name for layer in mapping.layers if layer.wide] == ["heat_out", "paf_out"]
    assert mapping.layers[0].in_size == (64, 64)
    assert mapping.layers[0].in_channels == 12
    assert {layer.activation for layer in mapping.layers[:12]} == {"relu"}
    assert all(layer.bias for layer in mapping.layers)
    assert "its stride of 2 is done by folding the input" in mapping.notes[0]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 2, 1), (4, 4, 0), (2, 2, 0), (5, 2, 2), (7, 4, 3), (6, 2, 2)]
)
def test_a_folded_layer_computes_exactly_the_same(kernel: int, stride: int, padding: int) -> None:
    side = 24
    found = folded_kernel(side, kernel, stride, padding, (1, 3))
    assert found is not None
    taps, pad = found
    image, weight = torch.randn(1, 2, side, side).double(), torch.randn(5, 2, kernel, kernel).double()
    folded = F.pixel_unshuffle(image, stride)
    small = torch.zeros(5, 2, stride, stride, taps, taps).double()
    for row in range(kernel):
        for column in range(kernel):
            (down, y), (right, x) = (divmod(place - padding, stride) for place in (row, column))
            small[:, :, y, x, down + pad, right + pad] = weight[:, :, row, column]
    small = small.reshape(5, 2 * stride * stride, taps, taps)
    expected = F.conv2d(image, weight, stride=stride, padding=padding)
    assert torch.allclose(F.conv2d(folded, small, padding=pad), expected)


def test_a_stride_that_no_fold_takes_is_a_violation() -> None:
    assert folded_kernel(25, 3, 2, 1, (1, 3)) is None
    assert folded_kernel(24, 7, 2, 3, (1, 3)) is None
    report = chip_cost(nn.Sequential(conv(3, 8), conv(8, 8, stride=2)), torch.randn(1, 3, 16, 16))
    assert report.cost.violations == ("1: stride 2x2; it must be 1, pool before the layer instead",)
    assert [row.runs for row in report.cost.layers] == [True, False]


def test_a_1x1_convolution_with_a_stride_pools_over_one_pixel() -> None:
    layer = mapped(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8, 1, stride=2)), 3, 16, 16).layers[1]
    assert (layer.stride, layer.pool, layer.pool_stride) == ((1, 1), (1, 1), (2, 2))
    assert layer.out_size == (8, 8)


def test_plain_torch_is_joined_into_layers() -> None:
    model = nn.Sequential(
        conv(3, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        conv(8, 16), nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(2),
        nn.ConvTranspose2d(16, 16, 3, 2, 1, 1), nn.Flatten(), nn.Linear(16 * 64, 10), nn.Softmax(1),
    )  # fmt: skip
    mapping = mapped(model, 3, 32, 32)
    assert mapping.problems == ()
    assert mapping.outside == ("11: _softmax, the chip has no such operation",)
    assert names(mapping) == ["0", "4", "5", "8", "10"]
    first, second, pool, up, last = mapping.layers
    assert (first.bias, first.activation) == (True, "relu")
    assert (second.pool, second.activation) == ((2, 2), "relu")
    assert (pool.kind, pool.pool) == ("passthrough", (2, 2))
    assert (up.kind, up.pool, up.pool_mode, up.out_size) == ("convtranspose2d", (2, 2), "average", (8, 8))
    assert (last.flatten, last.in_channels, last.in_size) == (True, 16, (8, 8))
    assert mapping.weights == ("0.weight", "4.weight", None, "8.weight", "10.weight")


def test_sequences() -> None:
    model = nn.Sequential(
        nn.Conv1d(4, 8, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 6, 3, dilation=2),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    mapping = mapped(model, 4, 20)
    assert mapping.problems == ()
    assert [(layer.kind, layer.in_size, layer.pool) for layer in mapping.layers] == [
        ("conv1d", (20, 1), (1, 1)),
        ("conv1d", (20, 1), (2, 1)),
        ("linear", (6, 1), (6, 1)),
    ]
    assert network_cost(mapping.layers, MAX78000).fits


def residual() -> Net:
    """As in ai8x's residual networks: the sum goes into the next convolution."""

    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = net.a(x)
        return net.c(net.add(net.b(x), x))  # type: ignore[no-any-return]

    layers = {"a": FusedConv2dBNReLU(3, 20, 3, padding=1), "b": FusedConv2dBNReLU(20, 20, 3, padding=1)}
    return Net(forward, **layers, c=FusedMaxPoolConv2dReLU(20, 8, 3, padding=1), add=Add())


@pytest.mark.parametrize("quantised", [False, True])
def test_a_sum_goes_into_the_next_layer_and_its_operand_is_copied(quantised: bool) -> None:
    model = residual()
    if quantised:
        initiate_qat(model)
    mapping = mapped(model, 3, 16, 16)
    assert mapping.problems == ()
    assert names(mapping) == ["a", "copy of a", "b", "c"]
    last = mapping.layers[-1]
    assert (last.operands, last.eltwise, last.sources) == (2, "add", (2, 1))
    assert (last.pool, last.pool_first) == ((2, 2), False)
    assert network_cost(mapping.layers, MAX78000).fits
    assert names(mapped(model, 3, 16, 16, chip=MAX78002)) == ["a", "b", "add", "c"]


def test_a_sum_that_several_read_becomes_a_layer() -> None:
    def forward(net: Any, x: torch.Tensor) -> Any:
        both = net.a(x) - net.b(x)
        return net.c(both), net.d(both)

    mapping = mapped(Net(forward, a=conv(3, 8), b=conv(3, 8), c=conv(8, 8), d=conv(8, 8)), 3, 16, 16)
    assert names(mapping) == ["a", "b", "forward", "c", "d"]
    assert (mapping.layers[2].kind, mapping.layers[2].eltwise) == ("passthrough", "sub")
    assert [layer.sources for layer in mapping.layers] == [(INPUT,), (INPUT,), (0, 1), (2,), (2,)]


def test_concatenation_is_a_matter_of_places() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = net.a(x)
        return net.d(torch.cat([net.b(x), net.c(x)], 1))  # type: ignore[no-any-return]

    mapping = mapped(Net(forward, a=conv(3, 8), b=conv(8, 12), c=conv(8, 12, 1), d=conv(24, 8)), 3, 16, 16)
    assert mapping.problems == ()
    assert (mapping.layers[-1].sources, mapping.layers[-1].in_channels) == ((1, 2), 24)
    rows = network_cost(mapping.layers, MAX78000).layers
    assert (rows[1].output_processor, rows[2].output_processor, rows[3].processors) == (0, 12, 24)


def both_sides(net: Any, x: torch.Tensor) -> torch.Tensor:
    raw = net.a(x)
    return net.b(torch.relu(raw)) + net.c(raw)  # type: ignore[no-any-return]


def gated(net: Any, x: torch.Tensor) -> torch.Tensor:
    x = net.a(x)
    return net.b(x * net.c(x))  # type: ignore[no-any-return]


def chosen(net: Any, x: torch.Tensor) -> torch.Tensor:
    x = net.a(x)
    return net.b(torch.where(x > 0, x.floor(), x.ceil()))


def product(net: Any, x: torch.Tensor) -> torch.Tensor:
    flat = net.a(x).flatten(2)
    return flat @ flat.transpose(1, 2)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(conv(3, 8), nn.SiLU(), conv(8, 8)), "1: silu, the chip has no such operation"),
        (nn.Sequential(conv(3, 8), nn.ReLU6(), conv(8, 8)), "1: hardtanh, limits 0.0 and 6.0"),
        (
            nn.Sequential(nn.BatchNorm2d(3), conv(3, 8)),
            "0: native_batch_norm, not directly after a convolution",
        ),
        (nn.Sequential(conv(3, 8), nn.MaxPool2d(3, 2, 1), conv(8, 8)), "1: max_pool2d_with_indices, padding"),
        (nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(3), conv(8, 8)), "with unequal windows"),
        (nn.Sequential(conv(3, 8), nn.Upsample(scale_factor=2), conv(8, 8)), "1: upsample_nearest2d"),
        (nn.Sequential(conv(3, 8), nn.PixelShuffle(2), conv(2, 8)), "1: pixel_shuffle"),
        (nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), conv(8, 8)), "1: native_group_norm"),
        (nn.Sequential(conv(3, 8), nn.PReLU(), conv(8, 8)), "the chip has no such operation"),
        (
            Net(both_sides, a=conv(3, 8), b=conv(8, 8), c=conv(8, 8)),
            "a: its output is read both before and after",
        ),
        (Net(gated, a=conv(3, 8), b=conv(8, 8), c=conv(8, 8)), "forward: mul, a product of two feature maps"),
        (Net(product, a=conv(3, 8)), "a product of two feature maps"),
        (Net(chosen, a=conv(3, 8), b=conv(8, 8)), "forward: gt, the chip has no such operation"),
    ],
)
def test_what_does_not_map_is_named_by_its_module(model: nn.Module, words: str) -> None:
    report = chip_cost(model.eval(), torch.randn(1, 3, 16, 16))
    assert not report.fits
    assert any(words in line for line in report.unmapped), report.unmapped
    assert "Does not fit MAX78000" in str(report)


@pytest.mark.parametrize("quantile", [1.0, 0.985])
def test_average_pooling_under_quantisation_is_that_of_the_float_form(
    quantile: float, tmp_path: Path
) -> None:
    """ai8x-training truncates what it pools by comparing, rounding both ways and choosing."""
    torch.manual_seed(0)
    model = nn.Sequential(
        FusedConv2dBNReLU(3, 72, 3, padding=1), FusedAvgPoolConv2dReLU(72, 16, 3, padding=1), Conv2d(16, 4, 1, wide=True)
    ).eval()  # fmt: skip
    fuse_batch_norm_(model)
    layers = mapped(model, 3, 16, 16).layers
    initiate_qat(model, shift_quantile=quantile)
    assert mapped(model, 3, 16, 16).layers == layers
    images = torch.randn(2, 3, 16, 16).clamp(-1, 1)
    assert ready_for_synthesis(model, images, tmp_path, chip="MAX78000", arch="net").network.max_error == 0


def test_all_that_is_in_the_way_is_found_at_once() -> None:
    model = nn.Sequential(conv(3, 8, 5), nn.SiLU(), conv(8, 8), nn.GELU(), conv(8, 8, dilation=2))
    found = chip_cost(model, torch.randn(1, 3, 16, 16)).obstacles
    assert [line.partition(":")[0] for line in found] == ["1", "3", "0", "4"]


def test_a_layer_that_is_called_twice_has_two_names() -> None:
    model = Net(lambda net, x: net.a(net.a(x)), a=conv(3, 3))
    assert names(mapped(model, 3, 8, 8)) == ["a", "a#2"]


def test_a_layer_that_is_called_twice_is_stored_once() -> None:
    twice = mapped(Net(lambda net, x: net.b(net.a(net.a(x))), a=conv(8, 8), b=conv(8, 8)), 8, 8, 8)
    assert [layer.shares for layer in twice.layers] == [None, 0, None]
    cost = network_cost(twice.layers, MAX78000)
    assert [row.kernel_offset for row in cost.layers] == [0, 0, 8]
    assert (cost.kernel_words, cost.deepest_words, cost.bias_bytes) == (2 * 64, 16, 16)
    assert cost.weight_bytes == 2 * 8 * 8 * 9  # so does the tool: two_heads in adi_synthesis.json


@pytest.mark.parametrize(
    ("channels", "chip", "alone"), [(72, MAX78000, False), (136, MAX78000, True), (8, MAX78002, True)]
)
def test_a_sum_is_a_layer_of_its_own_where_the_chip_wants_that(channels: int, chip: Any, alone: bool) -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.c(net.a(x) + net.b(x))  # type: ignore[no-any-return]

    model = Net(forward, a=conv(3, channels), b=conv(3, channels), c=conv(channels, 8))
    mapping = mapped(model, 3, 8, 8, chip=chip)
    assert names(mapping) == (["a", "b", "forward", "c"] if alone else ["a", "b", "c"])
    assert network_cost(mapping.layers, chip).fits


def test_weight_bits_of_layers_that_do_not_say() -> None:
    assert {layer.weight_bits for layer in mapped(conv(3, 8), 3, 8, 8, weight_bits=2).layers} == {2}
    with pytest.raises(InputError, match="must be 1, 2, 4 or 8"):
        mapped(conv(3, 8), 3, 8, 8, weight_bits=3)


def test_models_without_a_layer_or_with_other_inputs() -> None:
    report = chip_cost(nn.Sequential(nn.ReLU()), torch.randn(1, 3, 8, 8))
    assert report.unmapped == ("no layer of the model runs on the chip",)
    with pytest.raises(InputError, match="must have the axes"):
        chip_cost(nn.Linear(3, 4), torch.randn(1, 3))
    with pytest.raises(InputError, match="one of MAX78000, MAX78002"):
        chip_cost(conv(3, 4), torch.randn(1, 3, 8, 8), chip="MAX78001")


def test_the_model_is_left_as_it_is() -> None:
    model = pose_student().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mapped_model = map_model(trace(model, as_inputs(torch.randn(1, 3, 128, 128))), MAX78000)
    assert all(isinstance(layer, Layer) for layer in mapped_model.layers)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
