"""Experts whose weights lie in one tensor: which expert a row goes to is a number, how wide experts are is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin


class Experts(nn.Module):
    """Every row goes through one of two experts, in order, by a grouped product or by a batched one."""

    def __init__(self, grouped: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 5)
        self.up, self.down = (nn.Parameter(torch.randn(2, *shape) / 4) for shape in ((2 * 24, 16), (16, 24)))
        self.grouped = grouped

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.grouped:
            return torch._grouped_mm(x, weight.transpose(1, 2), torch.tensor([4, 8], dtype=torch.int32))
        return torch.bmm(x.view(2, 4, -1), weight.transpose(1, 2)).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gate, value = self.product(x, self.up).chunk(2, -1)
        return self.last(x + self.product(F.silu(gate) * value, self.down))


@pytest.mark.parametrize("grouped", [True, False])
def test_experts_get_narrower(grouped: bool) -> None:
    if grouped and not hasattr(torch, "_grouped_mm"):
        pytest.skip("this torch has no grouped product")
    torch.manual_seed(0)
    result = torchthin.prune(Experts(grouped).eval(), torch.randn(8, 6), include=["*"])
    assert result.proof is not None and result.proof.holds
    assert result.model.up.shape == (2, 24, 8)
    assert result.model.down.shape == (2, 8, 12)
