"""Channels into which others are mixed (attention between channels, heads that talk), and axes that kernels leave alone."""

import copy

import pytest
import torch
from nets.laws import distance, masked_net
from torch import Tensor, nn

import torchthin


class FactorAttention(nn.Module):
    """Keys of zero still weigh all steps alike, so one removed channel has a living row beside a column of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, 8) for _ in range(3))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        out: Tensor = self.out(q @ (k.softmax(1).transpose(1, 2) @ v) + q)
        return out


class TalkingHeads(nn.Module):
    """Attention maps of heads are mixed by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mix, self.out = nn.Linear(5, 24), nn.Parameter(torch.randn(4, 4)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (-1, 2)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        maps = torch.einsum("bhij,hg->bgij", (q @ k.transpose(-1, -2)).softmax(-1), self.mix)
        out: Tensor = self.out((maps @ v).transpose(1, 2).flatten(2))
        return out


class Positions(nn.Module):
    """A depthwise convolution over what heads and their channels are flattened to, as in CoaT."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.v, self.out = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)
        self.conv = nn.Conv1d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, v = (part(x).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.q, self.v))
        width = v.shape[-1]
        near = (
            self.conv(v.transpose(-1, -2).reshape(b, 2 * width, n)).reshape(b, 2, width, n).transpose(-1, -2)
        )
        out: Tensor = self.out((q * near).transpose(1, 2).flatten(2))
        return out


class Aggregate(nn.Module):
    """Streams are stacked and summed by a convolution of kernel 1, which sees the channels as places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.sum, self.out = (
            nn.Linear(5, 8),
            nn.Linear(5, 8),
            nn.Conv1d(2, 1, 1),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([self.a(x), self.b(x)], 2).flatten(0, 1)
        out: Tensor = self.out(self.sum(stacked).squeeze(1))
        return out


class Levels(nn.Module):
    """A factor divides elsewhere, as the levels of a quantiser do: masked, it would make nothing but NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)
        self.levels = nn.Parameter(torch.rand(8) + 1)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
        out: Tensor = self.out((self.a(x) * self.levels + steps) / self.levels + self.b(x))
        return out


NETS = (FactorAttention, TalkingHeads, Positions, Aggregate, Levels)


@pytest.mark.parametrize("kind", NETS, ids=lambda kind: str(kind.__name__))
def test_mixed_channels_are_removed_and_masks_say_all_of_it(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().double().eval()
    example = torch.randn(2, 6, 5, dtype=torch.float64)

    result = torchthin.prune(model, example, 0.5, exact=True)

    assert result.proof is not None and result.proof.exact
    assert result.report.thinned.after.parameters < 0.65 * result.report.thinned.before.parameters
    masked = masked_net(copy.deepcopy(model), result.masks)
    for shape in ((2, 6, 5), (3, 4, 5), (1, 9, 5)):
        assert (distance(masked, result.model, torch.randn(shape, dtype=torch.float64)) or 0.0) < 1e-12
