"""A layer whose result is added to something makes up for what went wrong in that as well, as far as its inputs can."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchthin import prune, recover


class TwoBranches(nn.Module):
    """Both branches compute the same features of the input, so that the second can give what the first has lost."""

    def __init__(self, layer: Callable[[int, int], nn.Module], in_place: bool) -> None:
        super().__init__()
        self.stem = layer(6, 10)
        self.first, self.first_out = layer(6, 16), layer(16, 10)
        self.second, self.second_out = layer(6, 16), layer(16, 10)
        self.second.load_state_dict(self.first.state_dict())
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        stream: Tensor = self.stem(x) + self.first_out(self.first(x).relu())
        branch: Tensor = self.second_out(self.second(x).relu())
        return branch.add_(stream) if self.in_place else stream + branch


def _pointwise(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1)


CASES: dict[str, tuple[Callable[[int, int], nn.Module], tuple[int, ...]]] = {
    "rows": (nn.Linear, (6,)),
    "tokens": (nn.Linear, (5, 6)),
    "pixels": (_pointwise, (6, 3, 3)),
}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_later_branch_makes_up_for_an_earlier_one(name: str, in_place: bool) -> None:
    torch.manual_seed(0)
    layer, shape = CASES[name]
    net, data = TwoBranches(layer, in_place).eval(), torch.randn(256, *shape)
    result = prune(net, data[:2], 0.5, include=["first"])
    assert result.model.first.weight.shape[0] == 8
    found = recover(net, result, data[:2], data)
    facts = found.report.recovery
    assert facts is not None
    assert facts.before > 1e-3
    assert facts.after < 1e-8
    assert torch.allclose(found.model.second.weight, net.second.weight, atol=1e-4)
    fresh = torch.randn(8, *shape)
    assert torch.allclose(found.model(fresh), net(fresh), atol=1e-3)


class Scaled(TwoBranches):
    """The first branch is added with a factor, after which the second is not added to what it was fitted for."""

    def forward(self, x: Tensor) -> Tensor:
        stream: Tensor = self.stem(x) + self.first_out(self.first(x).relu())
        return torch.add(self.second_out(self.second(x).relu()), stream, alpha=2)


def test_a_sum_with_a_factor_is_left_alone() -> None:
    torch.manual_seed(0)
    net, data = Scaled(nn.Linear, False).eval(), torch.randn(256, 6)
    result = prune(net, data[:2], 0.5, include=["first"])
    found = recover(net, result, data[:2], data)
    assert torch.allclose(found.model.second_out.weight, net.second_out.weight, atol=1e-4)


class Normed(nn.Module):
    """Both branches pass through BatchNorms before they are added, as in residual networks."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(6, 10, 1)
        self.first, self.first_out = nn.Conv2d(6, 16, 1), nn.Conv2d(16, 10, 1, bias=False)
        self.second, self.second_out = nn.Conv2d(6, 16, 1), nn.Conv2d(16, 10, 1, bias=False)
        self.second.load_state_dict(self.first.state_dict())
        self.first_norm, self.second_norm = (nn.BatchNorm2d(10, affine=affine) for _ in range(2))
        for norm in (self.first_norm, self.second_norm):
            norm.running_mean = torch.randn(10)
            norm.running_var = torch.rand(10) + 0.5
            if affine:
                nn.init.uniform_(norm.weight, -2, 2)
                nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        stream: Tensor = self.stem(x) + self.first_norm(self.first_out(self.first(x).relu()))
        branch: Tensor = self.second_norm(self.second_out(self.second(x).relu()))
        return branch + stream


@pytest.mark.parametrize("affine", [True, False])
def test_a_branch_makes_up_for_another_through_its_norm(affine: bool) -> None:
    torch.manual_seed(0)
    net, data = Normed(affine).eval(), torch.randn(256, 6, 3, 3)
    result = prune(net, data[:2], 0.5, include=["first"])
    found = recover(net, result, data[:2], data)
    facts = found.report.recovery
    assert facts is not None
    assert facts.before > 1e-3
    assert facts.after < 1e-8
    fresh = torch.randn(8, 6, 3, 3)
    assert torch.allclose(found.model(fresh), net(fresh), atol=1e-3)
