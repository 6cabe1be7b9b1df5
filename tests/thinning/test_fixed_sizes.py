"""Law: a number in the code keeps the axis whose size it is, and nothing else that the op or a later one reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets.laws import masked_net
from nets.small import lively
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin

Forward = Callable[["Written", Tensor], Tensor]


class Written(nn.Module):
    """Two convolutions and two linear layers, the size between them written in the code."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.code = forward
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 16, 3)
        self.third, self.last = nn.Linear(16, 40), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.third(self.code(self, self.second(self.first(x).relu()))).relu())


def pooled(y: Tensor) -> Tensor:
    return y.amax((2, 3))


WRITTEN: dict[str, Forward] = {
    "view": lambda _, y: pooled(y).view(-1, 16),
    "view of every axis": lambda _, y: pooled(y).view(2, 16),
    "reshape": lambda _, y: pooled(y.reshape(2, 16, 8, 8)),
    "unflatten": lambda _, y: pooled(y).unflatten(1, (16, 1)).flatten(1),
    "norm": lambda _, y: F.layer_norm(pooled(y), (16,)),
    "new tensor": lambda _, y: pooled(y) + torch.ones(16),
    "expand": lambda _, y: pooled(y) + y.new_ones(1).expand(2, 16),
    "range": lambda _, y: pooled(y[:, :16].flip(1)),
    "range beside another": lambda _, y: pooled(y[:, :16, 1:].flip(1)),
    "half beside another range": lambda _, y: pooled(torch.cat([y[:, 8:, 1:], y[:, :8, 1:]], 1)),
    "parts": lambda _, y: pooled(torch.cat(y.split([10, 6], 1)[::-1], 1)),
    "equal parts": lambda _, y: pooled(torch.cat(y.split(8, 1)[::-1], 1)),
    "narrow": lambda _, y: pooled(torch.cat([y.narrow(1, 8, 8), y.narrow(1, 0, 8)], 1)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_only_the_axis_whose_size_is_written_stays(name: str) -> None:
    model = lively(Written(WRITTEN[name])).eval()
    result = torchthin.prune(model, torch.randn(2, 3, 12, 12), 0.5, include=["*"])
    thin = result.model
    assert thin.third.out_features == 20
    assert thin.first.out_channels == 3
    assert thin.second.out_channels == (8 if name.startswith("range") else 16)
    assert result.proof is not None
    assert result.proof.holds


def test_the_reason_says_that_a_number_fixes_the_size() -> None:
    model = lively(Written(WRITTEN["view"])).eval()
    result = torchthin.prune(model, torch.randn(2, 3, 12, 12), 0.5, include=["*"])
    notes = [note for note in result.report.notes if note.startswith("second.weight")]
    assert notes[0] == "second.weight: 0 of 8 channels asked for were pruned."
    assert "16 filters are kept, a number in the code fixes its size: aten.view in the model" in notes[1]
    assert len(notes) == 2 and not result.report.target_reached


class Tokens(nn.Module):
    """Tokens of its own in front of those of the picture, cut off at the end by their number."""

    def __init__(self, kept: bool, width: int = 32, tokens: int = 4) -> None:
        super().__init__()
        self.tokens, self.kept = tokens, kept
        self.own = nn.Parameter(torch.randn(tokens, width))
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.up, self.down, self.head = nn.Linear(width, 64), nn.Linear(64, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.own.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)], 1)
        y = y + (y @ y.transpose(1, 2)).relu() @ y
        y = y + self.down(self.up(y).relu())
        return self.head((y[:, self.tokens :] if self.kept else y[:, 4:]).mean(1))


@pytest.mark.parametrize("kept", [True, False])
def test_the_width_of_tokens_goes_whatever_their_number_does(kept: bool) -> None:
    model = lively(Tokens(kept)).eval()
    result = torchthin.prune(model, torch.randn(2, 3, 16, 16), 0.5, include=["*"])
    thin = result.model
    assert (thin.patches.out_channels, thin.up.out_features, thin.own.shape[1]) == (16, 32, 16)
    assert (thin.tokens, thin.own.shape[0]) == ((2, 2) if kept else (4, 4))
    assert result.proof is not None
    assert result.proof.holds


class Mixing(nn.Module):
    """Mixes steps by a matrix as large as the longest input, of which a run reads a part."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.mix = nn.Linear(5, 12), nn.Linear(12, 3), nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        return self.down(self.mix[:t, :t] @ self.up(x).relu())


def test_what_a_short_example_leaves_out_of_a_parameter_stays_for_longer_inputs() -> None:
    torch.manual_seed(0)
    model = Mixing().eval()
    result = torchthin.prune(model, torch.randn(2, 6, 5), 0.5, include=["*"])
    assert result.proof is not None
    assert result.proof.exact
    assert result.model.up.out_features == 6
    assert result.model.mix.shape == (16, 16)
    longer = torch.randn(2, 15, 5)
    torch.testing.assert_close(result.model(longer), masked_net(model, result.masks)(longer))
