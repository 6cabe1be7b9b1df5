"""What the chip computes: equal to whole-number arithmetic, to quantisation-aware models, and of the model's own form."""

from typing import Any

import numpy as np
import pytest
import torch
from synthesis_networks import Ai8xResidual, Net, alive, conv, network
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.graph.inputs import as_inputs
from torchthin.io.calibration import calibration
from torchthin.max7800x import chip_accuracy, integer_model
from torchthin.max7800x.ai8x.base import fuse_batch_norm_, initiate_qat
from torchthin.max7800x.ai8x.float_form import float_form, is_quantised
from torchthin.max7800x.ai8x.layers import AvgPool2d, Conv2d, Linear
from torchthin.max7800x.synthesis import integers


def pictures(*shape: int, seed: int = 5) -> Tensor:
    """Return inputs on the chip's grid."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 2
    return (values * 128).floor().clamp(-128, 127) / 128


def in_whole_numbers(layer: nn.Conv2d, data: np.ndarray, *, relu: bool, bits: int = 8) -> np.ndarray:
    """Quantise a layer as quantize.py does and run it on int64 data (N, C, H, W) as ai8xize.py does."""
    assert layer.bias is not None
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    scale = np.floor(np.log2(1 / max(np.abs(weight).max(), np.abs(bias).max())))
    low, high, factor = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 2.0 ** (bits - 1 + scale)
    whole = [np.floor(values * factor + 0.5).clip(low, high).astype(np.int64) for values in (weight, bias)]
    pad = int(layer.padding[0])
    data = np.pad(data, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    side = weight.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(data, (side, side), (2, 3))  # type: ignore[call-overload]
    sums = np.einsum("nchwij,ocij->nohw", windows, whole[0]) + 128 * whole[1][:, None, None]
    shifted = np.floor(0.5 + sums / (128 / 2.0 ** (-scale + 8 - bits))).astype(np.int64).clip(-128, 127)
    return shifted.clip(0) if relu else shifted


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_it_is_integer_arithmetic(bits: int) -> None:
    torch.manual_seed(0)
    first, second = conv(3, 6), conv(6, 5, 1)
    model = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second).eval()
    images = pictures(3, 3, 8, 8)
    data = in_whole_numbers(first, (images.numpy() * 128).astype(np.int64), relu=True, bits=bits)
    data = data.reshape(3, 6, 4, 2, 4, 2).max((3, 5))
    expected = in_whole_numbers(second, data, relu=False, bits=bits)
    made = integer_model(model, images[:1], weight_bits=bits)(images)
    assert np.array_equal((made * 128).numpy(), expected)


def test_sums_that_float32_cannot_hold_are_exact() -> None:
    linear = nn.Linear(1024, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.rand(3, 1024, generator=torch.Generator().manual_seed(0)) * 0.01 + 0.98)
        linear.bias.copy_(torch.tensor([0.5, -0.25, 0.0]))
    model = nn.Sequential(nn.Flatten(), linear).eval()
    images = pictures(2, 64, 4, 4)
    whole = [
        (tensor.detach() * 128 + 0.5).floor().clamp(-128, 127).long()
        for tensor in (linear.weight, linear.bias)
    ]
    sums = (images * 128).long().flatten(1) @ whole[0].T + 128 * whole[1]
    assert int((whole[0].abs().sum(1) * 128).max()) > 2**23
    made = integer_model(model, images[:1])(images)
    assert torch.equal((made * 128).long(), (sums / 128 + 0.5).floor().clamp(-128, 127).long())


@pytest.fixture(scope="module")
def quantised() -> nn.Module:
    """Ai8x layers in quantisation-aware mode, 4 bits in one of them, a sum, average pooling, outputs of 32 bits."""
    torch.manual_seed(0)
    model = alive(Ai8xResidual())
    model.conv4 = nn.Sequential(AvgPool2d(2), model.conv4)
    model.fc = Linear(256, 10, bias=True, wide=True)
    fuse_batch_norm_(model)
    initiate_qat(model)
    model.conv3.set_quantization(4)  # type: ignore[union-attr, operator]
    return model.eval()


def test_a_quantisation_aware_model_is_what_the_chip_computes(quantised: nn.Module) -> None:
    images = pictures(5, 3, 16, 16)
    assert torch.equal(integer_model(quantised, images[:1])(images), quantised(images))


def test_in_float64_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on other devices than the CPU."""
    model, images = network("fire")
    made, images = integer_model(model, images), pictures(2, 3, 16, 16)
    single = made(images)
    monkeypatch.setattr(integers, "_EXACT", 0.0)
    double = integer_model(model, images[:1])
    assert {one.weight.dtype for one in double._layers.kernels if one} == {torch.float64}
    assert torch.equal(double(images), single)


def test_the_host_computes_the_rest_and_outputs_keep_their_form() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        x = net.stem(x).relu()
        return {"scores": net.left(x).flatten(1).softmax(1), "maps": [net.right(x)]}

    torch.manual_seed(0)
    model = Net(forward, stem=conv(3, 8), left=conv(8, 4), right=conv(8, 6, 1)).eval()
    images = pictures(3, 3, 4, 4)
    made = integer_model(model, images[:1])
    whole, dense = made(images), model(images)
    torch.testing.assert_close(whole["scores"].sum(1), torch.ones(3))
    torch.testing.assert_close(whole["scores"], dense["scores"], atol=2e-3, rtol=0)
    torch.testing.assert_close(whole["maps"][0], dense["maps"][0], atol=0.03, rtol=0)
    assert not torch.equal(whole["maps"][0], dense["maps"][0])
    with pytest.raises(InputError, match=r"must be \(N, 3, 4, 4\), as its example was. Got \(1, 3, 8, 8\)"):
        made(pictures(1, 3, 8, 8))


def test_the_float_form_has_no_rounding_and_the_same_units(quantised: nn.Module) -> None:
    made = float_form(quantised)
    assert is_quantised(quantised)
    assert not is_quantised(made)
    images = pictures(4, 3, 16, 16)
    rounded, plain = quantised(images).detach(), made(images).detach()
    assert 0 < float((rounded - plain).abs().max()) < 0.2 * float(plain.abs().max())


def test_accuracy_side_by_side(quantised: nn.Module) -> None:
    images = pictures(12, 3, 16, 16)
    data = calibration(images, like=as_inputs(images[:1]))
    dense = alive(Ai8xResidual())
    facts = chip_accuracy({"dense": quantised, "other": dense}, images[:1], data=data)
    rows = {(row.model, row.measure): row for row in facts.rows}
    first, same = rows["dense", "distance"], rows["dense", "same largest output"]
    assert (first.floating, same.floating) == (0, 1)
    assert first.quantised is not None
    assert first.quantised == first.integer > 0
    assert (
        same.quantised
        == same.integer
        == float((quantised(images).argmax(1) == float_form(quantised)(images).argmax(1)).float().mean())
    )
    other = rows["other", "distance"]
    assert other.quantised is None
    assert other.integer is not None
    assert "| dense | distance" in str(facts)
    assert facts.notes == ()
    beyond = chip_accuracy(
        {"dense": dense}, images[:1], data=calibration(4 * images, like=as_inputs(images[:1]))
    )
    assert beyond.notes[0].startswith("The inputs reach 4; the chip takes -1 to 127/128")


def test_a_metric_scores_every_form_and_a_model_that_does_not_run_has_no_integers() -> None:
    model, images = nn.Sequential(nn.Conv2d(3, 4, 5)).eval(), pictures(1, 3, 8, 8)
    scores = chip_accuracy({"model": model}, images, metric=lambda one: float(bool(one(images).any())))
    (row,) = scores.rows
    assert (row.floating, row.quantised, row.integer) == (1, None, None)
    assert "Note: model has no integers: The model does not run on MAX78000" in str(scores)
    small = nn.Sequential(Conv2d(3, 4, 1)).eval()
    facts = chip_accuracy(
        {"model": small},
        images,
        metric=lambda one: -float((one(images) - small(images)).detach().abs().max()),
    )
    (row,) = facts.rows
    assert row.floating == 0 > (row.integer or 0) > -0.02
