"""A model whose layers are all written by hand has weights to prune as any other: a graph shows which axis makes channels."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchthin


class Own(nn.Module):
    """A linear layer that is none of torch's, as torch-geometric has its own."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(after, before)), nn.Parameter(torch.randn(after))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() + self.bias


@pytest.mark.parametrize("how", [{}, {"include": ["*"]}], ids=["by default", "by a pattern"])
def test_layers_of_own_classes_are_cut(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Own(5, 8), nn.ReLU(), Own(8, 3)).double()
    result = torchthin.prune(net, torch.randn(2, 5, dtype=torch.float64), 0.5, **how)
    assert [tuple(p.shape) for p in result.model.parameters()] == [(4, 5), (4,), (3, 4), (3,)]
    assert result.proof is not None and result.proof.exact
