"""Models with parts under torch.compile are recorded as they were written."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchthin import prune


@pytest.mark.filterwarnings("ignore:Using .torch.compile")  # of the hooks that follow modules
@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch 2.6 and later can be asked to")
def test_a_compiled_part_is_thinned_like_a_plain_one() -> None:
    def pruned(compiled: bool) -> int | None:
        torch.manual_seed(0)
        part: nn.Module = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU())
        net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), part, nn.Conv2d(16, 4, 1)).eval()
        images = torch.randn(1, 3, 16, 16)
        if compiled:
            net[2] = torch.compile(part, backend="eager")  # type: ignore[assignment]
            with torch.no_grad():
                net(images)
        result = prune(net, images, 0.5)
        assert result.proof is not None
        assert result.proof.holds
        return result.report.thinned.after.parameters

    assert pruned(compiled=True) == pruned(compiled=False)
