"""Masks in files: a bit for each decision, one decision for each channel where whole channels go; older files still load."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import torchthin
from torchthin.errors import CheckpointError
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.checkpoints.masks import packed, unpacked


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    """Any mask: along some axes it is the same throughout."""
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    own = [size if draw(st.booleans()) else min(size, 1) for size in shape]
    count = torch.Size(own).numel()
    bits = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return torch.tensor(bits, dtype=torch.bool).reshape(own).expand(shape)


@given(masks())
def test_every_mask_comes_back(mask: Tensor) -> None:
    bits, shapes = packed({"w": mask})
    back = unpacked(Path("p"), bits, shapes)["w"]
    assert back.dtype == torch.bool and torch.equal(back, mask)
    assert bits["w"].numel() <= -(-mask.numel() // 8)


def test_whole_channels_take_a_bit_each() -> None:
    mask = torch.zeros(64, 32, 3, 3, dtype=torch.bool)
    mask[::2] = True
    bits, shapes = packed({"w": mask})
    assert (bits["w"].numel(), shapes["w"]) == (8, [[64, 32, 3, 3], [64, 1, 1, 1]])


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_thinned_file_is_about_as_large_as_its_model(tmp_path: Path, ending: str) -> None:
    result = torchthin.prune(net(), torch.ones(1, 16), 0.5)
    result.save(tmp_path / f"p.{ending}")
    weights = sum(tensor.numel() * 4 for tensor in result.model.state_dict().values())
    assert (tmp_path / f"p.{ending}").stat().st_size < 1.05 * weights
    read = read_checkpoint(tmp_path / f"p.{ending}").masks
    assert read.keys() == result.masks.keys()
    assert all(torch.equal(read[name], mask) for name, mask in result.masks.items())


@pytest.mark.parametrize(
    "shapes",
    [
        None, {}, {"0.weight": 3}, {"0.weight": [[1024, 16]]}, {"0.weight": [[1024, 16], [1024, 16]]},
        {"0.weight": [[10**9, 10**9], [10**9, 10**9]]}, {"0.weight": [[8, 16], [1024, 1]]},
        {"0.weight": [["a"], ["b"]]},
    ],
)  # fmt: skip
def test_damaged_masks_are_said(tmp_path: Path, shapes: Any) -> None:
    torchthin.prune(net(), torch.ones(1, 16), 0.5).save(tmp_path / "p.pth")
    content = torch.load(tmp_path / "p.pth", weights_only=True)
    content["mask_shapes"] = shapes if not isinstance(shapes, dict) else {**content["mask_shapes"], **shapes}
    if shapes == {}:
        content["masks"] = {"0.weight": 3}
    torch.save(content, tmp_path / "p.pth")
    with pytest.raises(CheckpointError, match=r"The masks of .* are damaged"):
        read_checkpoint(tmp_path / "p.pth")


def test_masks_of_before_are_read(tmp_path: Path) -> None:
    mask = torch.tensor([[True], [False]]).expand(2, 3).contiguous()
    content = {"state_dict": {"w": torch.ones(2, 3)}, "masks": {"w": mask}, "torchthin": {"version": "0.1.0"}}
    torch.save(content, tmp_path / "old.pth")
    assert torch.equal(read_checkpoint(tmp_path / "old.pth").masks["w"], mask)
