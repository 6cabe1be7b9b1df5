"""Fingerprints of values notice what a wrong removal does to them, in large values as in small ones."""

from __future__ import annotations

import pytest
import torch

from torchthin.thinning.divergence import SAMPLE, close, fingerprint


@pytest.mark.parametrize("positions", [3, 4093, 3 * SAMPLE // 64])
def test_two_swapped_channels_are_noticed_and_rounding_is_not(positions: int) -> None:
    value = torch.randn(64, positions, generator=torch.Generator().manual_seed(0))
    order = torch.arange(64)
    order[[5, 6]] = order[[6, 5]]
    assert close(fingerprint(value), fingerprint(value * (1 + 1e-7)), 1e-4)
    assert not close(fingerprint(value), fingerprint(value[order]), 1e-4)
    assert not close(fingerprint(value), fingerprint(value.index_fill(0, torch.tensor([9]), 0.0)), 1e-4)
