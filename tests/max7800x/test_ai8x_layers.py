"""The stand-ins: keys, shapes and dtypes as ai8x-training writes them, results by the published formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchthin.errors import ConfigError
from torchthin.graph.output_shift import largest_value_shift, sorted_quantile
from torchthin.max7800x.ai8x import base, layers

SETTINGS = [
    ("output_shift", (1,), torch.float32),
    ("weight_bits", (1,), torch.int64),
    ("bias_bits", (1,), torch.int64),
    ("quantize_activation", (1,), torch.bool),
    ("adjust_output_shift", (1,), torch.bool),
    ("shift_quantile", (1,), torch.float32),
]
BATCH_NORM = [
    ("bn.weight", (24,), torch.float32),
    ("bn.bias", (24,), torch.float32),
    ("bn.running_mean", (24,), torch.float32),
    ("bn.running_var", (24,), torch.float32),
    ("bn.num_batches_tracked", (), torch.int64),
]


def keys_of(layer: nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    return [(name, tuple(value.shape), value.dtype) for name, value in layer.state_dict().items()]


def randomise(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, value in layer.state_dict().items():
        if name.endswith(("weight", "running_var")):
            value.uniform_(0.3, 2.0).mul_(torch.where(torch.rand_like(value) < 0.5, 1.0, -1.0))
        if name.endswith(("bias", "running_mean")):
            value.uniform_(-1, 1)
        if name.endswith("running_var"):
            value.abs_()
    return layer.eval()


def test_state_dict_keys_stand_in_ai8x_order() -> None:
    conv = [("op.weight", (24, 3, 3, 3), torch.float32), ("op.bias", (24,), torch.float32)]
    assert keys_of(layers.FusedConv2dBNReLU(3, 24, 3, padding=1)) == SETTINGS + conv + BATCH_NORM
    assert keys_of(layers.Conv2d(3, 24, 3, wide=True)) == SETTINGS + conv
    assert keys_of(layers.MaxPool2d(2)) == SETTINGS
    assert keys_of(layers.Add()) == []


def test_float_forward_is_pool_conv_bn_quarter_relu_clamp() -> None:
    layer = randomise(layers.FusedMaxPoolConv2dBNReLU(4, 6, 3, padding=1))
    x = torch.randn(2, 4, 12, 12)
    op, bn = layer.op, layer.bn
    y = F.conv2d(F.max_pool2d(x, 2), op.weight, op.bias, padding=1)
    y = F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-5) / 4
    expected = y.relu().clamp(-1, 127 / 128)
    assert (expected == 127 / 128).any()
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


def test_a_1d_layer_is_the_same_on_sequences() -> None:
    layer = randomise(layers.FusedMaxPoolConv1dBNReLU(4, 6, 5, padding=2))
    assert [name for name, _, _ in keys_of(layer)] == [
        name for name, _, _ in keys_of(layers.FusedConv2dBNReLU(4, 6, 3))
    ]
    x = torch.randn(2, 4, 24)
    op, bn = layer.op, layer.bn
    y = F.conv1d(F.max_pool1d(x, 2), op.weight, op.bias, padding=2)
    y = F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-5) / 4
    expected = y.relu().clamp(-1, 127 / 128)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)
    base.fuse_batch_norm_(layer)
    assert layer.bn is None
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


def test_average_pooling_of_sequences_truncates_when_quantised() -> None:
    layer = layers.Conv1d(1, 1, 1, pooling="Avg", bias=False)
    layer.op.weight.data.fill_(1.0)
    layer.set_quantization(8)
    x = torch.tensor([[[1.0, 2, -1, -2]]]) / 128
    assert (layer(x) * 128).flatten().tolist() == [1.0, -1.0]


def test_wide_output_is_neither_scaled_nor_limited_to_one() -> None:
    layer = randomise(layers.Conv2d(4, 6, 1, wide=True))
    x = torch.randn(2, 4, 5, 5) * 10
    out = layer(x)
    torch.testing.assert_close(out, F.conv2d(x, layer.op.weight, layer.op.bias), rtol=0, atol=1e-5)
    assert layer(x * 1e6).abs().max() == 32768.0


def test_op_is_never_called_and_stays_bound() -> None:
    layer = randomise(layers.FusedConv2dReLU(4, 6, 3, stride=2, padding=1))
    calls: list[int] = []
    layer.op.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(1, 4, 8, 8)
    before = layer(x)
    assert calls == []
    twin = copy.deepcopy(layer)
    twin.op.weight.data.zero_()
    assert torch.equal(layer(x), before)
    assert not torch.equal(twin(x), before)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_forward_follows_the_largest_weight_or_bias(bits: int) -> None:
    layer = randomise(layers.FusedConv2dReLU(4, 6, 3))
    with torch.no_grad():
        layer.op.bias[0] = 5.0  # the largest |value| of the layer: shift 3, everything scaled by 1/8
    layer.set_quantization(bits)
    x = (torch.rand(2, 4, 6, 6) * 2 - 1).mul(128).floor().div(128)
    step = 2.0 ** (bits - 1)

    def grid(values: torch.Tensor) -> torch.Tensor:
        return ((values / 8 * step + 0.5).floor() / step).clamp(-1, 1 - 1 / step)

    y = F.conv2d(x, grid(layer.op.weight), grid(layer.op.bias)) * 8
    expected = ((y.relu() * 128 + 0.5).floor() / 128).clamp(-1, 127 / 128)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


def test_gradient_passes_the_rounding() -> None:
    layer = randomise(layers.Conv2d(4, 6, 1, wide=True))
    layer.set_quantization(8)
    layer(torch.randn(1, 4, 3, 3)).sum().backward()
    assert layer.op.weight.grad.abs().min() > 0


def test_loading_a_quantised_state_dict_switches_the_functions() -> None:
    source = randomise(layers.FusedConv2dReLU(4, 6, 3))
    source.set_quantization(4)
    fresh = layers.FusedConv2dReLU(4, 6, 3).eval()
    fresh.load_state_dict(source.state_dict())
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(fresh(x), source(x))
    source.set_quantization(None)
    assert not torch.equal(fresh(x), source(x))


def test_average_pooling_truncates_towards_zero_when_quantised() -> None:
    layer = layers.AvgPool2d(2)
    layer.set_quantization(8)
    x = torch.tensor([[1.0, 2, 2, 2], [-1, -2, -2, -2]]).reshape(1, 2, 2, 2) / 128
    assert (layer(x) * 128).flatten().tolist() == [1.0, -1.0]


def test_average_pooling_floats_are_kept_and_limited() -> None:
    x = torch.full((1, 1, 2, 2), 3.0)
    assert layers.AvgPool2d(2)(x).item() == 127 / 128
    assert layers.MaxPool2d(2)(x).item() == 3.0


def test_linear_and_add() -> None:
    layer = randomise(layers.FusedLinearReLU(5, 3, bias=True))
    x = torch.randn(4, 5)
    expected = F.linear(x, layer.op.weight, layer.op.bias).relu().clamp(-1, 127 / 128)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)
    assert layers.Linear(5, 3).op.bias is None
    assert (
        layers.Add()(torch.full((2,), 0.4), torch.full((2,), 0.4), torch.full((2,), -3.0)).tolist()
        == [-1.0] * 2
    )


def test_fusing_batch_norm_keeps_the_outputs() -> None:
    model = nn.Sequential(
        layers.FusedConv2dBNReLU(3, 24, 3, padding=1),
        layers.FusedConv2dBN(24, 8, 1, batchnorm="NoAffine"),
        layers.Conv2d(8, 2, 1, wide=True),
    )
    randomise(model).double()  # in float32 rounding alone reaches 1e-6 on some machines
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64) * 2 - 1
    before = model(x)
    base.fuse_batch_norm_(model)
    assert not any("bn" in name for name in model.state_dict())
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_initiate_qat_reaches_every_layer() -> None:
    model = nn.Sequential(layers.FusedConv2dReLU(3, 4, 1), layers.Add(), layers.MaxPool2d(2))
    base.initiate_qat(model, bits=8, shift_quantile=0.9)
    assert [int(layer.weight_bits) for layer in base.ai8x_layers(model)] == [8, 8]
    assert [float(layer.shift_quantile) for layer in base.ai8x_layers(model)] == pytest.approx([0.9, 0.9])


def test_quantile_interpolates_between_sorted_values() -> None:
    ordered = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert sorted_quantile(ordered, 1.0).item() == 8.0
    assert sorted_quantile(ordered[:1], 0.3).item() == 1.0
    # points at 1/8, 3/8, 5/8, 7/8; 0.7 lies in the third interval's left end: fraction 0.7 * 3 - 2 = 0.1
    assert sorted_quantile(ordered, 0.7).item() == pytest.approx(4.0 + 0.1 * 4.0)


@pytest.mark.parametrize(
    ("largest", "shift"), [(0.9, 0), (1.0, 0), (1.1, 1), (0.4, -1), (3.0, 2), (1e-9, -15)]
)
def test_output_shift(largest: float, shift: int) -> None:
    assert largest_value_shift(torch.tensor([0.0, -largest]), 1.0).item() == shift


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 5},
        {"kernel_size": 3, "padding": 3},
        {"kernel_size": 3, "stride": 4},
        {"kernel_size": 3, "stride": 2, "pooling": "Max"},
        {"kernel_size": 3, "pooling": "Median"},
        {"kernel_size": 3, "pooling": "Max", "pool_size": 17},
        {"kernel_size": 3, "activation": "Tanh"},
        {"kernel_size": 3, "activation": "ReLU", "wide": True},
        {"kernel_size": 3, "batchnorm": "Yes"},
        {"kernel_size": 3, "batchnorm": "Affine", "bias": False},
    ],
)
def test_what_the_chip_cannot_do_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="ai8x layer must be"):
        layers.Conv2d(4, 4, **arguments)


@pytest.mark.parametrize(
    "arguments", [{"kernel_size": 10}, {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "padding": 3}]
)
def test_what_the_chip_cannot_do_with_sequences_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="ai8x layer must be"):
        layers.Conv1d(4, 4, **arguments)


def test_wrong_bits_and_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="None, 1, 2, 4 or 8"):
        layers.Conv2d(4, 4, 1).set_quantization(3)
    with pytest.raises(ConfigError, match="at most 1024"):
        layers.Linear(1025, 4)
