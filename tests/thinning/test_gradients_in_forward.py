"""Models that take gradients inside of forward, such as the forces of an energy: the layers that run backwards follow, too."""

from __future__ import annotations

import pytest
import torch
from nets.small import lively
from torch import Tensor, nn

import torchthin


class Forces(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 1)
        self.way = way

    def energy(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x))))).sum()

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "torch.func":
            return torch.func.vmap(torch.func.grad(self.energy))(x)
        if self.way == "jacobian":
            return torch.autograd.functional.jacobian(self.energy, x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            if self.way == "backward":
                self.energy(x).backward()
                return x.grad
            return torch.autograd.grad(self.energy(x), x, create_graph=self.training)[0]


def inputs(seed: int = 0) -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("way", ["grad", "backward", "torch.func", "jacobian"])
def test_both_layers_lose_half(way: str) -> None:
    model = lively(Forces(way)).double().eval()
    model.a.weight.grad = gradient = torch.ones_like(model.a.weight)
    result = torchthin.prune(model, inputs(), 0.5, include=["*"])
    assert (result.model.a.out_features, result.model.b.out_features) == (16, 16)
    assert result.proof is not None and result.proof.holds
    assert [group.channels for group in torchthin.inspect(model, inputs()).groups] == [32, 32]
    assert model.a.weight.grad is gradient and bool((gradient == 1).all())
    assert all(p.grad is None for p in model.parameters() if p is not model.a.weight)
    with torch.no_grad():
        for name, mask in result.masks.items():
            model.get_parameter(name).mul_(mask)
    torch.testing.assert_close(result.model(inputs(1)), model(inputs(1)), rtol=1e-9, atol=1e-9)
