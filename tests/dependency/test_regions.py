"""torchvision's operators that cut regions out of pictures, against the oracle."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from oracle import OpModule, changes, check
from samples import real
from torch import Tensor

from torchthin.graph.inputs import as_inputs

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

ROIS = torch.tensor([[0.0, 0.5, 0.5, 3.0, 3.5], [1.0, 1.0, 0.0, 4.0, 2.0]], dtype=torch.float64)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_regions_keep_the_channels_of_the_picture() -> None:
    from zoo import vision_ops

    vision_ops.define()

    def cut(data: Tensor) -> Tensor:
        made: Tensor = torch.ops.torchvision.roi_align(data, ROIS, 1.0, 2, 2, 2, False)
        return made

    tensors = (real(2, 6, 4, 4),)
    free = 0
    for change in changes(tensors):
        finding = check(OpModule(cut, tensors, change), as_inputs(change.given(tensors)))
        assert finding.wrong == []
        assert finding.unknown == []
        free += finding.free
    assert free > 0
