"""Law: tensors that modules hold as plain attributes are cut like buffers; what no checkpoint holds takes over nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import torchthin


class Positions(nn.Module):
    """A stream with fixed positions that the constructor computes, and a fixed projection at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.positions = torch.linspace(-1, 1, 160).view(1, 10, 16).sin()
        self.middle, self.scale = nn.Linear(16, 8), torch.arange(8.0)
        self.projection = torch.eye(8)[:, :3] + 0.1

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.positions
        x = x + self.down(torch.relu(self.up(x)))
        return (self.middle(x) * self.scale) @ self.projection


class BorrowedBias(nn.Module):
    """The layer behind what goes takes its bias from where `keep_bias` puts it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 2)
        if kind == "parameter":
            self.shift = nn.Parameter(torch.ones(8))
        elif kind == "attribute":
            self.shift = torch.ones(8)
        else:
            self.register_buffer("shift", torch.ones(8), persistent=kind == "buffer")

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(torch.sigmoid(self.first(x)), self.second.weight, self.shift)
        return self.last(torch.relu(y))


def _thinned(net: nn.Module, x: Tensor) -> torchthin.PruneResult:
    return torchthin.prune(net, x, method="l1-structured", weights=["*"], thin=True)


def test_plain_attributes_are_cut_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Positions(), torch.randn(2, 10, 6)
    result = _thinned(net, x)
    assert result.proof is not None
    assert result.proof.holds
    small = result.model
    assert small.positions.shape == (1, 10, 8)
    assert small.scale.shape == (4,)
    assert small.projection.shape == (4, 3)
    assert net.positions.shape == (1, 10, 16)
    result.save(tmp_path / "small.pt")
    again = torchthin.load(tmp_path / "small.pt", Positions())
    torch.testing.assert_close(again(x), small(x))


def test_in_place_too_and_twice() -> None:
    torch.manual_seed(0)
    net, x = Positions(), torch.randn(2, 10, 6)
    masked = torchthin.prune(net, x, method="l1-structured", weights=["*"]).model
    first = torchthin.thin_(masked, x)
    assert masked.positions.shape == (1, 10, 8)
    second = _thinned(masked, x)
    assert second.model.positions.shape == (1, 10, 4)
    assert first.proof is not None
    assert second.proof is not None
    assert second.proof.holds


@pytest.mark.parametrize("kind", ["parameter", "buffer", "fleeting buffer", "attribute"])
def test_what_a_checkpoint_does_not_hold_takes_no_constant(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = BorrowedBias(kind), torch.randn(5, 4)
    result = _thinned(net, x)
    assert result.proof is not None
    assert result.proof.holds
    assert result.recipe is not None
    saved = kind in {"parameter", "buffer"}
    assert (
        "first.weight" in result.recipe.keep
    ) is saved  # sigmoid(bias) of a dead channel needs a place, or it stays
    kept = list(result.recipe.keep["shift"][0])
    assert torch.equal(result.model.shift, net.shift[kept]) is not saved
    result.save(tmp_path / "small.pt")
    again = torchthin.load(tmp_path / "small.pt", BorrowedBias(kind))
    torch.testing.assert_close(again(x), result.model(x))
