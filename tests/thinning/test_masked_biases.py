"""A layer that is called twice can absorb one constant only; where the calls ask for two, biases are masked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import torchthin


class Repeated(nn.Module):
    """The same layers run twice on the same stream: first on what `first` made, then on what a norm made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.up, self.down, self.norm = nn.Linear(16, 24), nn.Linear(24, 16), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(2):
            x = self.norm(x + self.down(self.up(x).relu()))
        return self.last(x)


def test_the_stream_of_a_shared_layer_is_cut() -> None:
    torch.manual_seed(0)
    model, x = Repeated().eval(), torch.randn(2, 6)
    result = torchthin.prune(model, x, include=["*"])
    assert result.proof is not None
    assert result.proof.holds
    assert result.model.up.weight.shape == (12, 8)
    dead = ~result.masks["first.weight"].any(1)
    assert (result.masks["first.bias"] == ~dead).all()
    assert any(note.startswith("first.bias: 8 values are masked") for note in result.report.notes)
    zeros = sum(int((~mask).sum()) for mask in result.masks.values())
    assert result.report.zeroed_parameters == zeros > result.report.total.zeroed_weights
    assert f"All parameters: {zeros:,} of" in str(result.report)
    assert "up.bias" not in result.masks  # both calls ask for the same constant of the inner channels


def test_what_is_masked_only_is_thinned_alike_later() -> None:
    torch.manual_seed(0)
    model, x = Repeated().eval(), torch.randn(2, 6)
    masked = torchthin.prune(model, x, include=["*"], thin=False)
    assert bool((masked.model.first.bias == 0).any())
    thinned = torchthin.thin_(model, x, masks=masked.masks)
    assert thinned.proof.holds
    assert model.up.weight.shape == (12, 8)


def test_biases_of_the_users_own_masks_stay() -> None:
    """What the user masked is the reference: its biases count, so the stream is kept."""
    torch.manual_seed(0)
    model, x = Repeated().eval(), torch.randn(2, 6)
    masked = torchthin.prune(model, x, include=["*"], thin=False)
    weights = {name: mask for name, mask in masked.masks.items() if name.endswith("weight")}
    torchthin.thin_(model, x, masks=weights)
    assert model.up.weight.shape == (12, 16)
