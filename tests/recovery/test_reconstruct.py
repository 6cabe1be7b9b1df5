"""Layer-wise reconstruction: what can be made up for is made up for, exactly; nothing gets worse; nothing else changes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pose_demo.student import pose_student
from torchthin import PruneResult, Recovery, prune, recover
from torchthin.errors import ConfigError, InputError
from torchthin.max7800x.ai8x.base import initiate_qat
from torchthin.recovery.batchnorm import recalibrate_


def half_copies_(layer: nn.Module) -> None:
    """Make the second half of a layer's filters half as large copies of the first: what reads them can do without."""
    for tensor in (layer.weight, layer.bias):
        if isinstance(tensor, Tensor):
            half = len(tensor) // 2
            tensor.data[half:] = tensor.data[:half] / 2


def redundant(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(*layers)
    for layer in net:
        if isinstance(layer, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.uniform_(-0.2, 0.2)  # type: ignore[operator,union-attr]
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.uniform_(-0.2, 0.2)
    half_copies_(net[0])
    if isinstance(net[1], nn.modules.batchnorm._BatchNorm):
        half_copies_(net[1])
        half = len(net[1].weight) // 2
        net[1].running_mean[half:] = net[1].running_mean[:half] / 2  # type: ignore[index]
        net[1].running_var.fill_(1.0)  # type: ignore[operator,union-attr]
        for tensor in (net[1].weight, net[1].bias):
            tensor.data[half:] = tensor.data[:half] * torch.tensor([1.0])
    return net.eval()


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "2-d": (lambda: redundant(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)), (3, 9, 9)),
    "stride and dilation": (
        lambda: redundant(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, (3, 2), (2, 1), (1, 0), (1, 2))),
        (3, 9, 9),
    ),
    "1-d": (lambda: redundant(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 5, padding=2)), (3, 20)),
    "3-d": (lambda: redundant(nn.Conv3d(2, 8, 2), nn.ReLU(), nn.Conv3d(8, 4, 2)), (2, 5, 5, 5)),
    "no bias": (
        lambda: redundant(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False)),
        (3, 9, 9),
    ),
    "BatchNorm behind": (
        lambda: redundant(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4)),
        (3, 9, 9),
    ),
    "linear": (
        lambda: redundant(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 5)),
        (3, 5, 5),
    ),
}


def pruned(net: nn.Module, shape: tuple[int, ...]) -> PruneResult:
    return prune(net, torch.randn(2, *shape))


@pytest.mark.parametrize("name", NETS)
def test_what_copies_gave_is_made_up_for(name: str) -> None:
    build, shape = NETS[name]
    net, data = build(), torch.randn(256, *shape)
    result = pruned(net, shape)
    found = recover(net, result, data[:1], data)
    facts = found.report.recovery
    assert facts is not None
    assert facts.before > 1e-4
    assert facts.after < 1e-9
    assert facts.samples == 256
    assert facts.held_out == 32
    assert facts.refitted >= 1
    fresh = torch.randn(8, *shape)
    assert torch.allclose(found.model(fresh), net(fresh), atol=1e-4)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.branch, self.wise = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped, self.head = nn.Conv2d(12, 8, 3, groups=2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.wise(torch.relu(self.branch(x))))
        return self.head(torch.relu(self.grouped(x)).mean((2, 3)))


def test_every_kind_of_layer_gets_nearer_and_the_given_models_stay() -> None:
    torch.manual_seed(0)
    net, data = Residual(), torch.randn(128, 3, 10, 10)
    result = prune(net.eval(), data[:2], 0.3, include=["*"])
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in (net, result.model)]
    found = recover(net, result, data[:1], data)
    facts = found.report.recovery
    assert facts is not None
    assert facts.after < 0.5 * facts.before
    assert facts.refitted >= 4
    assert facts.left == ()
    for model, state in zip((net, result.model), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not net.training
    assert all(
        a.shape == b.shape for a, b in zip(found.model.parameters(), result.model.parameters(), strict=True)
    )
    assert found.report.to_dict()["recovery"]["samples"] == 128


def test_weights_that_pass_through_functions_are_refitted() -> None:
    torch.manual_seed(0)
    net = pose_student().eval()
    data = torch.randn(3, 3, 128, 128).clamp(-1, 1)
    result = prune(net, data[:1], 0.3, exclude=["heat_out", "paf_out"])
    facts = recover(net, result, data[:1], data).report.recovery
    assert facts is not None
    assert facts.held_out == 0
    assert facts.refitted >= 10
    assert facts.after < facts.before


def test_quantised_weights_before_a_batch_norm_are_left_and_named() -> None:
    """Its statistics are those of the dense layer's scale; the two heads have none."""
    torch.manual_seed(0)
    net = pose_student().eval()
    initiate_qat(net)
    data = torch.randn(2, 3, 128, 128).clamp(-1, 1)
    result = prune(net, data[:1], 0.3, exclude=["heat_out", "paf_out"])
    facts = recover(net, result, data[:1], data).report.recovery
    assert facts is not None
    assert facts.refitted <= 2
    assert len(facts.left) >= 10
    assert not any("heat_out" in reason or "paf_out" in reason for reason in facts.left)


def test_statistics_are_exact_and_flags_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.BatchNorm2d(4))
    net[0].eval()
    data = torch.randn(16, 3, 6, 6)
    from torchthin.graph.inputs import as_inputs

    assert recalibrate_(net, as_inputs(data)) == 2
    with torch.no_grad():
        first = net[0](data)
        second = torch.relu(
            nn.functional.batch_norm(
                first, net[1].running_mean, net[1].running_var, net[1].weight, net[1].bias
            )
        )
    for norm, values in ((net[1], first), (net[3], second)):
        assert torch.allclose(norm.running_mean, values.mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(norm.running_var, values.var((0, 2, 3)), atol=1e-5)
    assert [module.training for module in net] == [False, True, True, True]
    assert (net[1].momentum, int(net[1].num_batches_tracked)) == (0.3, 0)


def test_wrong_use_is_refused() -> None:
    build, shape = NETS["2-d"]
    net, data = build(), torch.randn(16, *shape)
    masked = prune(net, data[:1], thin=False)
    with pytest.raises(ConfigError, match="thin=True"):
        recover(net, masked, data[:1], data)
    result = pruned(net, shape)
    for options in ({"epochs": -1}, {"epochs": 2.5}, {"loss": "boxes"}, {"lr": 0.0}, {"max_samples": 0}):
        (name,) = options
        with pytest.raises(ConfigError, match=f"The {name} of Recovery.* must be"):
            Recovery(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="recipe"):
        recover(nn.Conv2d(3, 8, 3), result, data[:1], data)
    with pytest.raises(InputError, match="shape"):
        recover(net, result, data[:1], torch.randn(4, 3, 8, 9))


class Unturned(nn.Module):
    """Multiplies with weights as they are, (inputs, outputs), as GPT-2 does; one of them is square."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.back = nn.Parameter(torch.randn(6, 24)), nn.Parameter(torch.randn(24, 6) / 5)
        self.square, self.bias = nn.Parameter(torch.randn(6, 6) / 3), nn.Parameter(torch.randn(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.mm(torch.mm(x, self.wide).relu(), self.back)
        return self.head(x + torch.addmm(self.bias, x, self.square))


def test_weights_that_are_not_turned_are_refitted() -> None:
    torch.manual_seed(0)
    net, data = Unturned().eval(), torch.randn(256, 6)
    result = prune(net, data[:2], {"mlp": 0.25})
    assert result.model.wide.shape == (6, 18)
    facts = recover(net, result, data[:2], data).report.recovery
    assert facts is not None and not facts.left
    assert facts.stages[0].taken and facts.after < 0.5 * facts.before


@pytest.mark.parametrize("last", [nn.Conv2d, nn.ConvTranspose2d])
def test_statistics_are_recalibrated_where_a_layer_was_not_refitted(last: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), last(8, 4, 3)).eval()
    data = torch.randn(40, 3, 8, 8)
    facts = recover(net, prune(net, data[:1], 0.5), data[:1], data).report.recovery
    assert facts is not None
    names = [stage.name for stage in facts.stages]
    assert ("BatchNorm statistics" in names) == (last is nn.ConvTranspose2d)
