"""Law: tensors that modules hold as plain attributes are cut like buffers; what no checkpoint holds absorbs nothing."""

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
    """The layer after the removed channels takes its bias from where `keep_bias` puts it."""

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
    return torchthin.prune(net, x, include=["*"])


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
    assert any("No checkpoint holds positions, scale, projection" in note for note in result.report.notes)
    result.save(tmp_path / "small.pt")
    again = torchthin.load(Positions(), tmp_path / "small.pt")
    torch.testing.assert_close(again(x), small(x))


class Caching(nn.Module):
    """Keeps positions from its first run, and the last features it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(6, 16), nn.Linear(16, 2)
        self.positions: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.positions is None:
            self.positions = torch.ones(self.embed.out_features)
        self.last = torch.relu(self.embed(x) + self.positions)
        return self.out(self.last)


def test_what_runs_leave_on_modules_is_no_part_of_a_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Caching(), torch.randn(3, 6)
    result = _thinned(net, x)
    assert result.recipe is not None
    assert result.recipe.keep.keys() == {"embed.weight", "embed.bias", "out.weight"}
    result.save(tmp_path / "small.pt")
    with torch.no_grad():
        result.model(torch.randn(5, 6))
        net(torch.randn(2, 6))
    recovered = torchthin.recover(net, result, x, torch.randn(32, 6))
    assert recovered.model.embed.out_features == 8
    again = torchthin.load(Caching(), tmp_path / "small.pt")
    assert again(x).shape == (3, 2)


def test_a_cache_of_the_pruned_instance_is_missing_in_a_new_one(tmp_path: Path) -> None:
    net, x = Caching(), torch.randn(3, 6)
    net(x)
    result = _thinned(net, x)
    assert any("No checkpoint holds positions" in note for note in result.report.notes)
    result.save(tmp_path / "small.pt")
    with pytest.raises(torchthin.InputError, match="positions, which the model does not have"):
        torchthin.load(Caching(), tmp_path / "small.pt")


def test_in_place_too_and_twice() -> None:
    torch.manual_seed(0)
    net, x = Positions(), torch.randn(2, 10, 6)
    masked = torchthin.prune(net, x, include=["*"], thin=False).model
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
    ) is saved  # sigmoid(bias) of a dead channel must be absorbed, or the channel is kept
    kept = list(result.recipe.keep["shift"][0])
    assert torch.equal(result.model.shift, net.shift[kept]) is not saved
    result.save(tmp_path / "small.pt")
    again = torchthin.load(BorrowedBias(kind), tmp_path / "small.pt")
    torch.testing.assert_close(again(x), result.model(x))
