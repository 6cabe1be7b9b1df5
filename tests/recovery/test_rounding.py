"""Refits of layers that round their weights: solved in their scale, on their grid, never worse on rows that were not fitted."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchthin import prune, recover
from torchthin.config import Recovery
from torchthin.graph.inputs import as_inputs
from torchthin.graph.output_shift import largest_value_shift
from torchthin.graph.recorder import record
from torchthin.max7800x.ai8x.base import initiate_qat
from torchthin.max7800x.ai8x.layers import Conv2d
from torchthin.recovery.distillation import LR_OF_ROUNDING, default_lr


def images(count: int) -> Tensor:
    """Smooth pictures, so that channels can make up for others."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, 12, mode="bilinear").clamp(-1, 127 / 128) * 0.7


def net(bits: int = 8, quantile: float = 1.0, *, wide: bool = True) -> nn.Sequential:
    """The second half of each layer's filters is half of the first: what reads both can do without it."""
    torch.manual_seed(0)
    more: dict[str, Any] = {"padding": 1, "activation": "ReLU"}
    layers = Conv2d(3, 16, 3, **more), Conv2d(16, 16, 3, **more)
    for layer in layers:
        op: Any = layer.op
        for tensor in (op.weight, op.bias):
            tensor.data[8:] = 0.5 * tensor.data[:8]
    model = nn.Sequential(*layers, Conv2d(16, 4, 1, wide=wide)).eval()
    initiate_qat(model, bits, quantile)
    return model


@pytest.mark.parametrize(("bits", "quantile", "left"), [(8, 1.0, 0.05), (8, 0.995, 0.25), (4, 1.0, 0.25)])
def test_a_quantised_network_is_refitted(bits: int, quantile: float, left: float) -> None:
    model, data = net(bits, quantile), images(64)
    result = prune(model, data[:1], 0.5)
    found = recover(model, result, data[:1], data)
    facts = found.report.recovery
    assert facts is not None
    assert facts.after < left * facts.before
    assert facts.refitted >= 1
    assert facts.left == ()
    again = recover(model, found, data[:1], data).report.recovery
    assert again is not None
    assert 0.9 * facts.after < again.after <= facts.after


def test_new_weights_lie_on_the_grid() -> None:
    model, data = net(), images(64)
    found = recover(model, prune(model, data[:1], 0.5), data[:1], data)
    op: Any = found.model.get_submodule("1.op")
    shift = float(largest_value_shift(torch.cat([op.weight.detach().flatten(), op.bias.detach()]), 1.0))
    for tensor in (op.weight, op.bias):
        levels = tensor.detach() * 2.0**-shift * 128
        assert torch.equal(levels, levels.round())


def test_the_dense_network_may_have_another_scale() -> None:
    """Its largest weights are in filters that are removed, so the thinned layer takes another power of two."""
    model, data = net(), images(64)
    first: Any = model[0].op
    op: Any = model[1].op
    with torch.no_grad():
        first.weight[15] = first.bias[15] = 0
        op.weight[8:, 15, 0, 0] = 0.6  # reads nothing but zeros
    result = prune(model, data[:1], 0.5)
    small: Any = result.model.get_submodule("1.op")
    shifts = [float(largest_value_shift(one.weight.detach().flatten(), 1.0)) for one in (op, small)]
    assert shifts[0] > shifts[1]
    facts = recover(model, result, data[:1], data).report.recovery
    assert facts is not None
    assert facts.after < 0.1 * facts.before


def test_distillation_learns_in_the_quantised_forward_pass() -> None:
    model, data = net(wide=False), images(64)
    result = prune(model, data[:1], 0.5)
    assert default_lr(record(result.model, as_inputs(data[:1]))) == LR_OF_ROUNDING
    found = recover(model, result, data[:1], data, recovery=Recovery(epochs=5, lr=2e-4, mixup=False))
    facts = found.report.recovery
    assert facts is not None
    assert facts.stages[-1].name == "distillation"
    assert facts.stages[-1].taken
    settings = [name for name, p in found.model.named_parameters() if "bits" in name and int(p) != 8]
    assert settings == []
