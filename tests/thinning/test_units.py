"""Which of several axes a divided axis loses something along, and who must decide alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import torchthin


class Fused(nn.Module):
    """Queries, keys and values lie on an axis of three in front of four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.out = nn.Linear(6, 32), nn.Linear(32, 96), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.first(x)).view(b, n, 3, 4, -1).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = (q @ k.transpose(-1, -2) * 0.35).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Biased(nn.Module):
    """Only whole heads can be removed; the bias of the values is divided on its own, and nothing ties it to the queries."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.first, self.qkv, self.out = nn.Linear(6, 32), nn.Linear(32, 96), nn.Linear(32, 5)
        self.v_bias = nn.Parameter(torch.randn(32))

    def divided(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(-3, -2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.divided(self.qkv(self.first(x))).chunk(3, -1)
        v = v + self.divided(self.v_bias[None, None])
        scale = q.shape[-1] ** -0.5
        y = ((q @ k.transpose(-1, -2)).sigmoid() * scale).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def pruned(model: nn.Module) -> nn.Module:
    result = torchthin.prune(model, torch.randn(2, 7, 6), include=["*"])
    assert result.proof is not None
    assert result.proof.holds
    return result.model


def test_the_axis_of_three_is_not_what_is_cut() -> None:
    torch.manual_seed(0)
    assert pruned(Fused().eval()).qkv.weight.shape == (48, 16)


def test_all_that_divide_alike_change_their_unit_together() -> None:
    torch.manual_seed(0)
    model = pruned(Biased().eval())
    assert (model.heads, model.qkv.weight.shape, model.v_bias.shape) == (2, (48, 16), (16,))
