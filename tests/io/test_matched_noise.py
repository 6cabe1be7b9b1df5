"""Law: from noise and what BatchNorms remember come inputs that these take for the training data; the model stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.graph.inputs import Inputs, as_inputs
from torchthin.io import matched_noise as module
from torchthin.io.calibration import calibration
from torchthin.io.matched_noise import matched_noise


def tiles(count: int) -> Tensor:
    """Pictures unlike noise: large tiles, dark in one channel."""
    drawn = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(count)).round() * 2
    return drawn.repeat_interleave(5, 2).repeat_interleave(5, 3) + torch.tensor([0.5, -1.0, -2.0]).view(
        3, 1, 1
    )


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=None), nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=None), nn.ReLU(),
        nn.Conv2d(8, 5, 3),
    )  # fmt: skip
    made.train()
    with torch.no_grad():
        made(tiles(256))
    return made.eval()


NOISE = as_inputs(torch.randn(40, 3, 10, 10, generator=torch.Generator().manual_seed(1)))


def off(net: nn.Module, inputs: Inputs) -> float:
    """Return how far the means before BatchNorms are from those remembered, in deviations, squared."""
    found = []

    def look(norm: Any, args: tuple[Tensor, ...]) -> None:
        found.append(
            ((args[0].mean((0, 2, 3)) - norm.running_mean).square() / norm.running_var).mean().item()
        )

    hooks = [m.register_forward_pre_hook(look) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        net(*inputs.args)
    for hook in hooks:
        hook.remove()
    return sum(found)


def test_batchnorms_get_what_they_remember_and_the_model_stays(net: nn.Module) -> None:
    before = copy.deepcopy(net.state_dict())
    made = matched_noise(net, NOISE, 40)
    assert made is not None
    assert off(net, made) < 0.2 * off(net, NOISE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    again = matched_noise(net, NOISE, 40)
    assert again is not None
    assert torch.equal(made.args[0], again.args[0])
    assert not made.args[0].requires_grad


def test_half_precision_is_computed_in_single(net: nn.Module) -> None:
    made = matched_noise(copy.deepcopy(net).bfloat16(), NOISE.map(Tensor.bfloat16), 40)
    assert made is not None
    assert made.args[0].dtype == torch.bfloat16
    assert off(net, made.map(Tensor.float)) < 0.2 * off(net, NOISE)


def test_large_models_get_fewer_inputs_then_none(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    macs = 3 * (64 * 8 * 27 + 36 * 8 * 72 + 16 * 5 * 72)
    monkeypatch.setattr(module, "WORK", macs * 32 * 20)
    made = matched_noise(net, NOISE, 40)
    assert made is not None
    assert len(made.args[0]) == 32
    monkeypatch.setattr(module, "ROOM", 32 * (8 * 64 + 8 * 36) - 1)
    assert matched_noise(net, NOISE, 40) is None  # 32 do not fit into memory
    monkeypatch.undo()
    monkeypatch.setattr(module, "WORK", macs * 32 * 20 - 1)
    assert matched_noise(net, NOISE, 40) is None


class Rounding(nn.Module):
    """What goes in has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().round()


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(Rounding(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    ],
    ids=["no norm", "no statistics", "no gradient"],
)
def test_where_nothing_is_remembered_noise_stays_noise(other: nn.Module) -> None:
    assert matched_noise(other.eval(), NOISE, 40) is None
    plain = calibration("noise", like=NOISE, max_samples=40, model=other)
    assert plain.is_noise
    assert torch.equal(
        plain.joined().args[0], calibration("noise", like=NOISE, max_samples=40).joined().args[0]
    )


class Unusual(nn.Module):
    """Counts its calls, normalises its weight, names the argument of a norm, and keeps its input in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            self.conv.weight.renorm_(2, 0, 0.1)
        out: Tensor = self.last(torch.relu(self.norm(input=self.conv(batch["image"]))))
        return out


def test_what_a_forward_pass_changes_stays_in_a_copy_and_nested_inputs_are_noise() -> None:
    torch.manual_seed(0)
    net, like = Unusual().eval(), as_inputs(({"image": torch.randn(1, 3, 8, 8)},))
    before = copy.deepcopy(net.state_dict())
    found = calibration("noise", like=like, max_samples=40, model=net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not found.is_noise
    assert found.joined().args[0]["image"].flatten(1).unique(dim=0).shape[0] == 40


class Paired(nn.Module):
    """Takes pairs of inputs only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        if len(x) % 2:
            raise ValueError("pairs")
        out: Tensor = self.net(x)
        return out


def test_models_that_take_no_single_input_and_broken_statistics_get_noise_as_it_is() -> None:
    assert matched_noise(Paired().eval(), NOISE, 40) is None
    broken = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    assert isinstance(broken[1], nn.BatchNorm2d)
    assert broken[1].running_mean is not None
    broken[1].running_mean[0] = torch.nan
    assert matched_noise(broken, NOISE, 40) is None


def test_noise_is_fitted_only_where_something_is_learnt_from_it(net: nn.Module) -> None:
    named = torchthin.prune(net, tiles(300)[:1], 0.5, data="noise", criterion="l1")
    assert any("of mean 0 and deviation 1" in note for note in named.report.notes)
    assert named.report.recovery is None


def test_matched_noise_ranks_and_recovers_better_than_noise(net: nn.Module) -> None:
    image, unseen = tiles(300)[:1], tiles(200)
    matched = calibration("noise", like=as_inputs(image), max_samples=64, model=net)
    noise = calibration("noise", like=as_inputs(image), max_samples=64)
    found, plain = (torchthin.prune(net, image, 0.5, data=data) for data in (matched, noise))

    @torch.no_grad()
    def distance(model: nn.Module) -> float:
        return float((model(unseen) - net(unseen)).square().mean() / net(unseen).var())

    assert distance(found.model) < 0.7 * distance(plain.model)
    assert "reconstruction" in found.report.notes[0]
    assert found.report.recovery is not None
    assert any("remember" in note for note in found.report.recovery.notes)
