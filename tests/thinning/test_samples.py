"""Samples of values notice what a wrong removal does to them, in large values as in small ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.selection.selectors import DeadChannelSelector, effective_weights
from torchthin.thinning.proof.samples import MOST, Samples, close
from torchthin.thinning.search.constraints import Constraints, propose
from torchthin.thinning.survivors import Survivors

CHANNELS = 64
GONE = [3, 9, 40]


def survivors_of(side: int) -> tuple[Survivors, int]:
    """Return what is kept of a convolution that loses some filters, and its op."""
    net = nn.Sequential(nn.Conv2d(3, CHANNELS, 1, bias=False), nn.ReLU(), nn.Conv2d(CHANNELS, 2, 1))
    with torch.no_grad():
        net[0].weight[GONE] = 0
    traced = trace(net.eval(), as_inputs(torch.randn(2, 3, side, side)))
    proposal = propose(traced, DeadChannelSelector(effective_weights(net)), Constraints(), lambda: None)
    return proposal.survivors, traced.graph.ops[0].index


def sample(survivors: Survivors, op: int, value: Tensor, *, thinned: bool) -> Tensor:
    samples = Samples(survivors, thinned=thinned)
    samples.note(op, value)
    ((shape, numbers),) = samples.found[op]
    assert shape == (2, CHANNELS - len(GONE), *value.shape[2:])
    assert numbers.numel() <= 2 * MOST
    return numbers


@pytest.mark.parametrize("side", [2, 8, 128])
def test_a_wrong_channel_is_noticed_and_rounding_is_not(side: int) -> None:
    survivors, op = survivors_of(side)
    value = torch.randn(2, CHANNELS, side, side, generator=torch.Generator().manual_seed(0))
    kept = [n for n in range(CHANNELS) if n not in GONE]
    expected = sample(survivors, op, value, thinned=False)
    thinned = value[:, kept] * (1 + 1e-7)
    assert close(expected, sample(survivors, op, thinned, thinned=True), 1e-4)
    swapped = thinned[:, [1, 0, *range(2, len(kept))]]
    assert not close(expected, sample(survivors, op, swapped, thinned=True), 1e-4)
    for channel in range(len(kept)):
        dead = thinned.index_fill(1, torch.tensor([channel]), 0.0)
        assert not close(expected, sample(survivors, op, dead, thinned=True), 1e-4)


def test_nan_and_infinity_agree_with_themselves() -> None:
    value = torch.tensor([float("nan"), float("inf"), 1.0])
    assert close(value, value.clone(), 1e-6)
    assert not close(value, torch.tensor([0.0, float("inf"), 1.0]), 1e-6)
