"""A layer whose weight code takes transposed as well: a bias of the layer's own length is none for the other use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchthin


class BackAndForth(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.inner = nn.Linear(6, width, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.inner(self.stem(x))) @ self.inner.weight)


@pytest.mark.parametrize("width", [6, 8])
def test_constants_that_ask_for_two_biases_of_one_name(width: int) -> None:
    torch.manual_seed(0)
    model, x = BackAndForth(width).double().eval(), torch.randn(5, 3).double()
    nn.init.constant_(model.stem.bias, 1.0)
    result = torchthin.prune(model, x, 0.5, include=["*"])
    assert result.model.inner.bias is None
    with torch.no_grad():
        for name, mask in result.masks.items():
            model.get_parameter(name).mul_(mask)
        found, masked = result.model(x), model(x)
    claimed = 0.0 if result.proof is None else result.proof.relative_to_masked
    assert float((found - masked).abs().max() / masked.abs().max()) == pytest.approx(claimed, abs=1e-9)
