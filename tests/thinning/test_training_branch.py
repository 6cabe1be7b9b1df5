"""Models whose auxiliary heads run only in training mode still train after they were thinned."""

from __future__ import annotations

import pytest
import torch
from models import image, lively
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin


class WithHelper(nn.Module):
    """A head that helps in training only, as in GoogLeNet (a tuple) and Inception v3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU())
        self.helper = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 4))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.stem(x)
        help_ = self.helper(y) if self.training else None
        out = self.head(self.drop(self.body(y).mean((2, 3))))
        return out if help_ is None else (out, help_)


class NeedsLabels(WithHelper):
    """Its training branch does not run on the example inputs."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.training and labels is None:
            raise ValueError("labels are needed in training")
        y = self.stem(x)
        out = self.head(self.body(y).mean((2, 3)))
        return F.mse_loss(self.helper(y), labels) + F.mse_loss(out, labels) if self.training else out


def test_the_helper_is_thinned_with_the_stem() -> None:
    model = lively(WithHelper())
    result = torchthin.prune(model, image(), thin=True)
    small = result.model
    assert isinstance(small, WithHelper)
    assert small.stem[0].out_channels == 4
    assert small.helper[0].in_channels == 4
    assert small.body[0].in_channels == 4
    small.train()
    optimizer = torch.optim.SGD(small.parameters(), 0.01)
    for number in range(3):
        out, help_ = small(image(number))
        assert out.shape == help_.shape == (2, 4)
        (out.square().sum() + help_.square().sum()).backward()
        optimizer.step()
    assert all(p.grad is not None for p in small.parameters())
    assert small.eval()(image()).shape == (2, 4)


def test_the_training_branch_computes_what_the_masked_one_does() -> None:
    model = lively(WithHelper())
    nn.init.zeros_(model.stem[1].bias)
    nn.init.zeros_(model.stem[1].running_mean)
    for conv in (model.stem[0], model.helper[0]):  # the training branch alone has no constants to fold
        nn.init.zeros_(conv.bias)
    masked = torchthin.prune(model, image()).model
    small = torchthin.prune(model, image(), thin=True).model
    for one in (masked, small):
        one.train()
        for module in one.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
                module.eval()
    for expected, actual in zip(masked(image(5)), small(image(5)), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("mode", [True, False])
def test_modes_and_statistics_stay(mode: bool) -> None:
    model = lively(WithHelper()).train(mode)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torchthin.prune(model, image(), thin=True)
    assert {module.training for module in model.modules()} == {mode}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_training_branch_that_does_not_run_is_left_out() -> None:
    model = lively(NeedsLabels())
    small = torchthin.prune(model, image(), thin=True).model
    assert small.eval()(image()).shape == (2, 4)
