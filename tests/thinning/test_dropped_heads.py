"""Layers whose result reaches no output run all the same, so they follow what is cut in front of them."""

from __future__ import annotations

import torch
from nets.small import lively
from torch import Tensor, nn

import torchthin


class Dropped(nn.Module):
    """A second head runs in every mode, and what it gives is dropped unless the model is training."""

    def __init__(self, used_in_training: bool) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
        self.norm, self.inner = nn.BatchNorm2d(16), nn.Conv2d(16, 12, 1, bias=False)
        self.second, self.head = nn.Linear(12, 4), nn.Linear(16, 5)
        self.used_in_training = used_in_training

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.body(self.stem(x).relu()).relu()
        z = self.inner(self.norm(y)).relu().mean((2, 3))
        z = self.second(z).view(-1, 2, 2).softmax(-1)
        out = self.head(y.mean((2, 3)))
        return (out, z) if self.training and self.used_in_training else out


class Unread(nn.Module):
    """The last layers of a stream run although only what comes before them is read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(6, 16), nn.Linear(16, 16), nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        self.norm(y + self.last(y.relu()))
        return self.head(y)


def thinned(model: nn.Module) -> nn.Module:
    result = torchthin.prune(model, torch.randn(2, 3, 8, 8))
    assert result.proof is not None
    assert result.proof.holds
    return result.model


def test_a_dropped_head_follows_the_cut_and_keeps_its_own_widths() -> None:
    torch.manual_seed(0)
    model = thinned(lively(Dropped(False)).eval())
    assert model.body.weight.shape == (8, 4, 3, 3)
    assert model.norm.num_features == 8
    assert model.inner.weight.shape == (12, 8, 1, 1)
    assert model.second.weight.shape == (4, 12)


def test_a_head_that_only_training_returns_is_compared_there() -> None:
    torch.manual_seed(0)
    model = thinned(lively(Dropped(True)).eval())
    assert model.inner.weight.shape == (6, 8, 1, 1)
    out, second = model.train()(torch.randn(2, 3, 8, 8))
    (out.sum() + second.square().sum()).backward()


def test_what_nothing_uses_is_named() -> None:
    found = torchthin.inspect(lively(Dropped(False)).eval(), torch.randn(2, 3, 8, 8))
    reasons = {item.weight: item.reason for item in found.frozen}
    assert reasons["second.weight"].startswith("computed, but part of no output")
    assert not found.unused


def test_a_stream_is_cut_although_its_last_layers_are_not_read() -> None:
    torch.manual_seed(0)
    model = Unread().eval()
    result = torchthin.prune(model, torch.randn(2, 6), include=["*"])
    assert result.proof is not None
    assert result.proof.holds
    assert result.model.last.weight.shape == (8, 8)
    assert result.model.norm.normalized_shape == (8,)


class Silent(Dropped):
    """Nothing is returned."""

    def forward(self, x: Tensor) -> None:
        super().forward(x)


def test_without_an_output_nothing_is_cut() -> None:
    result = torchthin.prune(Silent(False).eval(), torch.randn(2, 3, 8, 8))
    assert result.recipe is None
    assert any("nothing can be proved" in note for note in result.report.notes)
