"""Checkpoints that torchthin 0.1.0 wrote before its modules were moved: they load, with everything they hold."""

from pathlib import Path

import pytest
import torch
from torch import nn

import torchthin
from torchthin.io.checkpoints import read_checkpoint

DATA = Path(__file__).parents[1] / "data"


class Tiny(nn.Module):
    """The class whose half of channels was pruned: conv2 gets a bias for the constants of conv1's removed channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 1, bias=False)
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.norm(self.conv1(images)))
        return self.head(torch.relu(self.conv2(features)).mean((2, 3)))


@pytest.mark.parametrize(
    ("file", "channels"), [("old_masked.pth", 4), ("old_thinned.pth", 2), ("old_thinned.safetensors", 2)]
)
def test_a_checkpoint_from_before_loads_and_computes_what_it_did(file: str, channels: int) -> None:
    model = torchthin.load(Tiny(), DATA / file).eval()
    assert (model.conv1.out_channels, model.conv2.out_channels) == (channels, channels)
    found = model(torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4))
    torch.testing.assert_close(found, torch.tensor([[0.149390593, 0.214658946]]))


@pytest.mark.parametrize("file", ["old_masked.pth", "old_thinned.pth", "old_thinned.safetensors"])
def test_what_stands_beside_the_weights_is_read(file: str) -> None:
    read = read_checkpoint(DATA / file)
    assert (read.epoch, read.arch, read.extras) == (7, "tiny", {"clipping": "minmax"})
    assert {name: mask.shape for name, mask in read.masks.items()} == {
        "conv1.weight": (4, 1, 3, 3),
        "conv2.weight": (4, 4, 1, 1),
    }
    assert all(mask.dtype == torch.bool and mask.float().mean() == 0.5 for mask in read.masks.values())
    assert read.torchthin is not None
    assert read.torchthin["config"]["target_sparsity"] == 0.5
    assert read.torchthin["report"]["pruned_channels"] == 4
    assert not read.skipped
