"""Models whose auxiliary heads run only in training mode still train after they were thinned."""

from __future__ import annotations

import copy

import pytest
import torch
from nets.laws import masked_net
from nets.small import image, lively
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin
from torchthin.graph.trace import Traced


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
    result = torchthin.prune(model, image())
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


class Biased(WithHelper):
    """The helper's own filters are pruned and emit constants; dropout and noise come as functions."""

    def __init__(self, *, bias: bool = True, noise: bool = False) -> None:
        super().__init__()
        layers = [nn.Conv2d(8, 6, 1, bias=bias), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=bias), nn.Flatten()]
        self.helper = nn.Sequential(*layers, nn.Linear(4 * 64, 4))
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.stem(x)
        out = self.head(F.dropout(self.body(y), 0.5, self.training).mean((2, 3)))
        if not self.training:
            return out
        y = F.dropout(y, training=True, p=0.3)
        return out, self.helper(y * torch.rand_like(y) if self.noise else y)


def still_(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
            module.eval()
    return model


@pytest.mark.parametrize("kind", ["helper", "functions", "no bias"])
def test_the_training_branch_computes_what_the_masked_one_does(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively(WithHelper() if kind == "helper" else Biased(bias=kind == "functions")).double()
    inputs = image().double()
    convolutions = [f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    masked = torchthin.prune(model, inputs, include=convolutions, thin=False, add_biases=True).model
    result = torchthin.prune(model, inputs, include=convolutions, add_biases=True)
    small = result.model
    assert isinstance(small, WithHelper)
    assert small.helper[0].out_channels == 3
    assert result.proof is not None
    assert [agreement.shape for agreement in result.proof.outputs] == [
        (2, 4)
    ] * 6  # 1 + 2, on two sets of inputs
    assert result.report.notes == ()
    still_(masked), still_(small)
    monkeypatch.setattr(F, "dropout", lambda x, *_, **__: x)
    fresh = image(5).double()
    for expected, actual in zip(masked(fresh), small(fresh), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_the_power_iteration_of_spectral_norm_stands_still() -> None:
    model = lively(Biased()).double()
    nn.utils.parametrizations.spectral_norm(model.body[0])
    result = torchthin.prune(model, image().double())
    assert result.proof is not None
    assert len(result.proof.outputs) == 6
    assert result.proof.relative_to_masked <= 1e-9 or result.report.thinned.inexact


def test_a_training_branch_that_draws_numbers_is_tried_and_said() -> None:
    result = torchthin.prune(lively(Biased(noise=True)), image())
    assert result.proof is not None
    assert len(result.proof.outputs) == 2
    assert any("The training branch draws random numbers (aten.rand_like" in n for n in result.report.notes)
    assert result.model.train()(image())[1].shape == (2, 4)


@pytest.mark.parametrize("mode", [True, False])
def test_modes_and_statistics_stay(mode: bool) -> None:
    model = lively(WithHelper()).train(mode)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torchthin.prune(model, image())
    assert {module.training for module in model.modules()} == {mode}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_training_branch_that_does_not_run_is_left_out() -> None:
    model = lively(NeedsLabels())
    small = torchthin.prune(model, image()).model
    assert small.eval()(image()).shape == (2, 4)


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("usage", torch.rand(8, 1, 1))
        self.other = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(self.in_training(y) if self.training else y)

    def in_training(self, y: Tensor) -> Tensor:
        return y * self.usage

    def embed(self, x: Tensor) -> Tensor:
        return self.other(self.a(x))


class Written(WithBuffer):
    def in_training(self, y: Tensor) -> Tensor:
        self.usage.mul_(0.9).add_(y.detach().mean((0, 2, 3))[:, None, None], alpha=0.1)
        return y


class Replaced(WithBuffer):
    def in_training(self, y: Tensor) -> Tensor:
        self.usage = 0.9 * self.usage + 0.1 * y.detach().mean((0, 2, 3))[:, None, None]
        return y


@pytest.mark.parametrize("kind", [WithBuffer, Written, Replaced])
def test_a_buffer_that_only_training_uses_is_cut(kind: type[WithBuffer]) -> None:
    model = lively(kind()).eval()
    usage = model.usage.clone()
    small = torchthin.prune(model, image()).model
    assert torch.equal(model.usage, usage)
    assert (small.a.out_channels, small.usage.shape) == (4, (4, 1, 1))
    assert small.train()(image()).shape == (2, 4, 8, 8)


def test_a_layer_that_another_method_uses_is_named() -> None:
    result = torchthin.prune(lively(WithBuffer()).eval(), image())
    named = [note for note in result.report.notes if note.startswith("No operation of the run reads")]
    assert len(named) == 1 and "reads other.weight, so nothing of it is cut" in named[0]
    assert result.model.other.in_channels == 8


class SizeInTraining(nn.Module):
    """An integer is a size in both modes, and a number besides."""

    def __init__(self, number: str) -> None:
        super().__init__()
        self.width, self.number = 8, number
        self.a, self.b = nn.Conv2d(3, 8, 3, bias=False), nn.Conv1d(8, 4, 1)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(self.drop(x.view(x.shape[0], self.width, x.shape[2] * x.shape[3])))
        if self.number == "in training":
            return y / self.width if self.training else y
        if self.number == "otherwise in training":
            return y / (self.width if self.training else 2)
        return y


@pytest.mark.parametrize("number", ["in training", "otherwise in training", "never"])
def test_an_integer_follows_only_where_it_is_a_size_in_training_too(number: str) -> None:
    model = lively(SizeInTraining(number)).double()
    inputs = image().double()
    result = torchthin.prune(model, inputs)
    assert result.model.width == (4 if number == "never" else 8)
    masked = masked_net(copy.deepcopy(model), result.masks)
    for mode in (False, True):
        nets = masked.train(mode), result.model.train(mode)
        for net in nets:
            net.drop.eval()
        torch.testing.assert_close(nets[1](inputs), nets[0](inputs), rtol=1e-9, atol=1e-9)


def test_training_is_run_for_integers_that_follow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without integers of its own costs no further run."""
    runs = []
    recorded = Traced.with_training
    monkeypatch.setattr(Traced, "with_training", lambda traced: runs.append(traced) or recorded(traced))
    torchthin.prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), image())
    assert runs == []
    torchthin.prune(SizeInTraining("never"), image())
    assert len(runs) == 1


class Counted(nn.Conv2d):
    """Keeps a buffer beside its weight that `forward` does not read."""

    def __init__(self) -> None:
        super().__init__(3, 8, 3)
        self.register_buffer("count", torch.zeros(8))


def test_a_buffer_that_stays_beside_what_was_cut_is_named() -> None:
    model = nn.Sequential(Counted(), nn.ReLU(), nn.Conv2d(8, 4, 3))
    plan = torchthin.plan(model, image())
    assert "0.count stays as long as it was beside 0.weight, which was cut" in plan.explain()
    assert sum("0.count" in note for note in plan.apply().report.notes) == 1
