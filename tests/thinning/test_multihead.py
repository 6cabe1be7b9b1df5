"""`nn.MultiheadAttention`: whole heads or parts of heads are removed; its width follows, even where sizes are equal by chance."""

from __future__ import annotations

import pytest
import torch
from nets.small import lively
from torch import Tensor, nn

import torchthin


class Cross(nn.Module):
    """Queries come from one sequence, keys and values from another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, width), nn.Linear(6, width)
        self.mix, self.out = nn.MultiheadAttention(width, heads, batch_first=True), nn.Linear(width, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.first(x), self.second(y)
        return self.out(a + self.mix(a, b, b, need_weights=False)[0])


class Own(Cross):
    """One sequence attends to itself."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a = self.first(x)
        return self.out(a + self.mix(a, a, a, need_weights=False)[0]) + self.second(y).mean()


class Stack(nn.Module):
    """An encoder and a decoder, which compare widths with an attribute."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, width), nn.Linear(6, width)
        self.mix = nn.Transformer(width, heads, 1, 1, 48, batch_first=True)
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(self.mix(self.first(x), self.second(y)))


@pytest.mark.parametrize(
    ("width", "heads", "scope"), [(64, 8, "group"), (32, 4, "group"), (32, 2, "group"), (32, 4, "global")]
)
@pytest.mark.parametrize("kind", [Cross, Own, Stack])
def test_attention_gets_narrower(kind: type[nn.Module], width: int, heads: int, scope: str) -> None:
    torch.manual_seed(0)
    model = lively(kind(width, heads)).eval()
    given = (torch.randn(2, 7, 10), torch.randn(2, 7, 6))
    result = torchthin.prune(model, given, torchthin.Ratio(0.4, scope=scope), include=["*"])
    assert result.proof is not None
    assert result.proof.holds
    assert result.report.thinned.after.parameters is not None
    assert result.report.thinned.after.parameters < 0.6 * result.report.parameters
