"""What networks and checkpoints of ai8x-training have that others have not: each was a fault once."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin import Chip, InputError, prune
from torchthin.max7800x import chip_cost, ready_for_synthesis
from torchthin.max7800x.ai8x.base import initiate_qat
from torchthin.max7800x.ai8x.layers import Conv2d, FusedConv2dBNReLU, FusedConv2dReLU

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(FusedConv2dBNReLU(3, 8, 3, padding=1), FusedConv2dReLU(8, 4, 1)).eval()


def test_a_checkpoint_with_names_of_two_kinds_is_read(tmp_path: Path) -> None:
    state = small().state_dict()
    mixed = {
        f"{'module.' if number % 2 else ''}{name}": value
        for number, (name, value) in enumerate(state.items())
    }
    torch.save({"state_dict": mixed, "epoch": 1, "arch": "net"}, tmp_path / "mixed.pth.tar")
    torch.manual_seed(1)
    again = torchthin.load(
        nn.Sequential(FusedConv2dBNReLU(3, 8, 3, padding=1), FusedConv2dReLU(8, 4, 1)),
        tmp_path / "mixed.pth.tar",
    )
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


class Supernet(nn.Module):
    """Its first parameter is a whole number."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Parameter(torch.tensor([3]), requires_grad=False)
        self.first, self.last = FusedConv2dReLU(3, 8, 3, padding=1), Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        assert x.is_floating_point()
        return self.last(self.first(x))


def test_inputs_are_not_cast_to_whole_numbers_by_the_first_parameter() -> None:
    torch.manual_seed(0)
    result = prune(Supernet().eval(), IMAGES, 0.5)
    assert result.model.first.op.weight.shape[0] == 4
    assert result.proof is not None and result.proof.holds


class Frames(nn.Module):
    """Layers of the chip on every frame, and a 1-d layer over all of them: five axes."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.wide = FusedConv2dReLU(3, 16, 3, padding=1), FusedConv2dReLU(16, 8, 1)
        self.over = nn.Conv1d(8, 6, 3)

    def forward(self, x: Tensor) -> Any:
        frames = [self.wide(self.each(x[:, :, number])).mean((2, 3)) for number in range(x.shape[2])]
        return self.over(torch.stack(frames, 2))


def test_five_axes_are_pruned_and_the_chip_says_what_to_give() -> None:
    torch.manual_seed(0)
    model, video = Frames().eval(), torch.randn(1, 3, 5, 8, 8)
    result = prune(model, video, 0.5)
    assert result.model.each.op.weight.shape == (8, 3, 3, 3)
    assert result.model.over.weight.shape == (6, 4, 3)
    with pytest.raises(
        InputError, match="Give the part that runs on the chip, with one frame as its example"
    ):
        chip_cost(model, video)


class Counted(nn.Module):
    """Counts how often it is run, in all its copies."""

    runs: ClassVar[int] = 0

    def __init__(self, quantile: float | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            FusedConv2dReLU(3, 16, 3, padding=1),
            FusedConv2dReLU(16, 24, 3, padding=1),
            Conv2d(24, 8, 1, wide=True),
        )
        if quantile is not None:
            initiate_qat(self, bits=8, shift_quantile=quantile)

    def forward(self, x: Tensor) -> Any:
        type(self).runs += 1
        return self.layers(x)


@pytest.mark.parametrize("quantile", [1.0, 0.95])
def test_planning_takes_few_more_runs_when_quantised(quantile: float) -> None:
    runs = []
    for one in (None, quantile):
        Counted.runs = 0
        prune(Counted(one).eval(), IMAGES, 0.5)
        runs.append(Counted.runs)
    assert runs[1] <= 1.5 * runs[0]


class Fire(nn.Module):
    """Concatenates 96 + 96 channels: three passes of two parts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.squeeze = FusedConv2dReLU(3, 16, 1)
        self.one, self.three = FusedConv2dReLU(16, 96, 1), FusedConv2dReLU(16, 96, 3, padding=1)
        self.last = Conv2d(192, 8, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.squeeze(x)
        return self.last(torch.cat([self.one(x), self.three(x)], 1))


def test_what_is_said_to_fit_is_written() -> None:
    model = Fire().eval()
    assert not chip_cost(model, IMAGES[:1]).fits
    result = prune(model, IMAGES[:1], Chip("MAX78000", fit=True))
    assert chip_cost(result.model, IMAGES[:1]).fits
    assert result.model.one.op.out_channels == result.model.three.op.out_channels <= 64
    made = ready_for_synthesis(result.model, IMAGES[:1], "chip", arch="fire")
    assert made.network.max_error < 1e-6
