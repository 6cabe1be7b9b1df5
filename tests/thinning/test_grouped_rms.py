"""An RMS norm over groups of channels, whose weight comes after the groups are put together, stays exact."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin


class GroupedNorm(nn.Module):
    """The gated norm of Mamba-2."""

    def __init__(self, width: int, group: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.epsilon, self.group = 1e-2, group

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        x = x * F.silu(gate)
        parts = x.view(*x.shape[:-1], x.shape[-1] // self.group, self.group)
        parts = parts * torch.rsqrt(parts.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * parts.view(*x.shape)


class Gated(nn.Module):
    def __init__(self, group: int) -> None:
        super().__init__()
        self.into, self.gate = nn.Linear(6, 32, bias=False), nn.Linear(6, 32, bias=False)
        self.norm, self.out = GroupedNorm(32, group), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.norm(self.into(x), self.gate(x)))
        return out


def test_a_norm_in_groups_is_the_masked_models() -> None:
    torch.manual_seed(0)
    for group, left in ((32, 16), (16, 8)):
        result = torchthin.prune(Gated(group), torch.randn(2, 7, 6), 0.5)
        assert isinstance(result.model, Gated)
        assert (result.model.norm.group, result.model.out.in_features) == (left, 16)
        assert result.proof is not None and result.proof.exact, str(result.proof)
        assert abs(result.model.norm.epsilon - 2e-2) < 1e-9
