"""Models of ai8x layers are thinned in float and in quantisation-aware mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin import PruneResult
from torchthin.max7800x.ai8x.base import initiate_qat
from torchthin.max7800x.ai8x.layers import Conv2d, FusedConv2dReLU, FusedMaxPoolConv2dReLU

IMAGE = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


class Detector(nn.Module):
    """A chain with two heads that are read as boxes, as in ai8x-training's detectors."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.first = FusedConv2dReLU(3, 16, 3, padding=1)
        self.second = FusedMaxPoolConv2dReLU(16, 24, 3, padding=1, bias=bias)
        self.third = FusedConv2dReLU(24, 16, 1, bias=bias)
        self.boxes = Conv2d(16, 8, 1, wide=True)
        self.classes = Conv2d(16, 6, 1, wide=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.third(self.second(self.first(images)))
        boxes = self.boxes(x).permute(0, 2, 3, 1).contiguous()
        classes = self.classes(x).permute(0, 2, 3, 1).contiguous()
        return boxes.view(len(images), -1, 4), classes.view(len(images), -1, 3)


def detector(*, bias: bool = True) -> Detector:
    """Return a detector whose biases are large, so that dead channels emit constants."""
    torch.manual_seed(0)
    model = Detector(bias=bias)
    for name, parameter in model.named_parameters():
        if name.endswith(".op.bias"):
            nn.init.uniform_(parameter, 0.05, 0.2)
    return model.eval()


def halved(model: nn.Module) -> PruneResult:
    result = torchthin.prune(model, IMAGE, 0.5)
    sizes = [
        tuple(result.model.get_parameter(f"{name}.op.weight").shape[:2])
        for name in ("first", "second", "third")
    ]
    assert sizes == [(8, 3), (12, 8), (8, 12)]
    assert result.proof is not None and result.proof.holds and result.proof.relative <= 1e-9
    return result


@pytest.mark.parametrize("bias", [True, False])
def test_float(bias: bool) -> None:
    result = halved(detector(bias=bias))
    border = "second: a constant of removed channels meets the border"
    assert result.report.thinned.inexact == ((border,) if bias else ())
    assert result.recipe is not None and not result.recipe.added
    assert (result.model.get_submodule("second.op").bias is not None) == bias
    assert ("first.op.bias" in result.masks) == (not bias)  # without a bias to go to, the constant is masked


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised(bits: int) -> None:
    """Constants that go into a bias are scaled and rounded with it, so the layer's scale may change."""
    model = detector()
    initiate_qat(model, bits=bits)
    result = halved(model)
    assert (
        "third.op.bias: the constant of removed channels is scaled and rounded with it"
        in result.report.thinned.inexact
    )
    small = result.model
    assert not torch.equal(small.get_parameter("third.op.bias"), model.third.op.bias[:8])
    assert float(small.get_parameter("third.weight_bits")) == bits


def test_quantised_without_constants_is_the_masked_model() -> None:
    model = detector()
    for name, parameter in model.named_parameters():
        if name.endswith(".op.bias"):
            nn.init.zeros_(parameter)
    initiate_qat(model, bits=8)
    result = halved(model)
    assert result.proof is not None and result.proof.relative_to_masked == 0.0


@pytest.mark.parametrize("quantile", [0.985, 0.9])
def test_a_shift_by_rank_is_that_of_the_weights_that_are_left(quantile: float) -> None:
    """What a quantile below 1 picks depends on how many weights there are; it is a power of two that the outputs take back."""
    model = detector()
    initiate_qat(model, bits=8, shift_quantile=quantile)
    result = halved(model)
    assert result.proof is not None and result.proof.holds and result.proof.relative == 0.0
    assert result.model.get_parameter("second.op.weight").shape[0] == 12
    assert any(
        "calc_out_shift: statistics run over fewer channels" in cause for cause in result.proof.inexact
    )
