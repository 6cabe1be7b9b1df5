"""Criteria of the whole group: against their formulas by hand, and what rescaling a channel does to them."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import torchthin
from torchthin.dependency.components import find_groups
from torchthin.dependency.producers import producers
from torchthin.dependency.propagate import propagate
from torchthin.errors import InputError
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.importance.criteria import lamp_scores
from torchthin.importance.scores import Ranking, ranked

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def ranking(net: nn.Module, name: str) -> Ranking:
    labels = propagate(trace(net, as_inputs(IMAGES)).graph)
    values = dict(net.named_parameters()) | dict(net.named_buffers())
    return ranked(find_groups(labels).groups.groups, values, producers(labels), name)


def scores(net: nn.Module, name: str) -> Mapping[str, np.ndarray]:
    return ranking(net, name).scores


def plain(norm: bool) -> nn.Sequential:
    """Return a net of one group that can go: four channels between two 1x1 convolutions."""
    torch.manual_seed(0)
    between = [nn.BatchNorm2d(4)] if norm else []
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), *between, nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    net[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 2, 0], [1, 1, 1], [0, 0, 3]])[..., None, None]
    net[-1].weight.data = torch.tensor([[4.0, 1, 0, 1], [0, 1, 2, 0]])[..., None, None]
    if norm:
        net[1].weight.data = torch.tensor([1.0, -2, 3, 1])
    return net


@pytest.mark.parametrize(
    ("norm", "group_l2", "flows"),
    [(False, [17, 6, 7, 10], [16, 8, 12, 9]), (True, [18, 10, 16, 11], [16, 8, 36, 1])],
)
def test_a_net_by_hand(norm: bool, group_l2: list[float], flows: list[float]) -> None:
    net = plain(norm)
    assert scores(net, "group-l2")["0.weight"].tolist() == group_l2
    shares = [flow / sum(other for other in flows if other >= flow) for flow in flows]
    assert scores(net, "flow")["0.weight"].tolist() == pytest.approx(shares, rel=1e-12)


class Fork(nn.Module):
    """Channels that two layers make and five take in: plain ones, in conv groups, channel by channel, flattened."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.branch = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.again = (nn.BatchNorm2d(8) if norm else nn.Identity() for _ in range(2))
        self.alone, self.grouped = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 3, groups=2)
        self.head, self.flat = nn.Conv2d(8, 2, 1), nn.Linear(8 * 64, 3)
        for name, parameter in self.named_parameters():
            if name in ("norm.weight", "again.weight"):
                parameter.data.uniform_(0.5, 2.0)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.again(self.branch(x)))
        return self.alone(x).sum((1, 2, 3)), self.grouped(x), self.head(x), self.flat(x.flatten(1))


def squares(weight: Tensor, axis: int) -> Tensor:
    return weight.detach().double().movedim(axis, 0).flatten(1).square().sum(1)


def pairs(each: Tensor) -> Tensor:
    """Return the sums of channels c and c + 4: they share an input place of the conv groups and go together."""
    return each.reshape(2, 4).sum(0)


def by_hand(net: Fork) -> tuple[Tensor, Tensor, Tensor]:
    """Return the squares of what makes the four pairs of channels, of what scales them and of what takes them in."""
    made = pairs(squares(net.stem.weight, 0) + squares(net.branch.weight, 0))
    scaled = torch.zeros(4, dtype=torch.float64)
    if isinstance(net.norm, nn.BatchNorm2d):
        scaled = pairs(net.norm.weight.detach().double() ** 2 + net.again.weight.detach().double() ** 2)
    behind = pairs(squares(net.branch.weight, 1) + squares(net.head.weight, 1))
    behind += squares(net.grouped.weight, 1) + pairs(squares(net.flat.weight, 1).reshape(8, 64).sum(1))
    return made, scaled, behind


@pytest.mark.parametrize("norm", [True, False])
def test_shared_grouped_depthwise_and_flattened_layers_count(norm: bool) -> None:
    net = Fork(norm)
    made, scaled, behind = by_hand(net)
    alone = pairs(squares(net.alone.weight, 0))
    assert scores(net, "group-l2")["stem.weight"].tolist() == pytest.approx(
        (made + scaled + behind + alone).tolist()
    )
    flows = (scaled if norm else made) * behind
    assert scores(net, "flow")["stem.weight"].tolist() == pytest.approx(lamp_scores(flows).tolist())


def rescale_(net: nn.Sequential, factors: Tensor) -> None:
    """Scale the channels by positive factors and what reads them by their inverse."""
    norm = isinstance(net[1], nn.BatchNorm2d)
    for scaled in (net[1].weight, net[1].bias) if norm else (net[0].weight,):
        scaled.data *= factors.reshape(-1, *[1] * (scaled.dim() - 1))
    net[-1].weight.data /= factors[:, None, None]


@pytest.mark.parametrize("norm", [True, False])
def test_flow_is_the_same_for_nets_that_compute_the_same(norm: bool) -> None:
    net = plain(norm)
    outputs, before, sums = net(IMAGES), scores(net, "flow"), scores(net, "group-l2")
    rescale_(net, torch.tensor([0.25, 8.0, 1.0, 32.0]))  # powers of two: nothing is rounded
    assert torch.allclose(net(IMAGES), outputs, atol=1e-5)
    assert scores(net, "flow")["0.weight"].tolist() == before["0.weight"].tolist()
    assert scores(net, "group-l2")["0.weight"].tolist() != sums["0.weight"].tolist()


def test_flow_does_not_see_the_scale_of_a_filter_before_its_batchnorm_but_that_it_is_zero() -> None:
    net = plain(norm=True)
    before = scores(net, "flow")["0.weight"]
    net[0].weight.data[1] *= 100
    assert scores(net, "flow")["0.weight"].tolist() == before.tolist()
    net[0].weight.data[2] = 0
    after = scores(net, "flow")["0.weight"]
    assert after[2] == 0
    assert after.max() == 1


def test_global_flow_compares_groups_as_they_are() -> None:
    assert ranking(plain(norm=True), "flow").absolute
    assert not ranking(plain(norm=True), "group-l2").absolute


@pytest.mark.parametrize("criterion", ["group-l2", "flow"])
@pytest.mark.parametrize(("scope", "thin"), [("group", False), ("group", True), ("global", True)])
def test_forked_nets_are_pruned(criterion: str, scope: str, thin: bool) -> None:
    target = torchthin.Ratio(0.5, scope=scope)
    result = torchthin.prune(Fork(norm=True), IMAGES, target, criterion=criterion, thin=thin)
    assert result.report.target_reached
    assert result.proof is not None and result.proof.holds


@pytest.mark.parametrize("criterion", ["group-l2", "flow"])
def test_without_example_inputs_the_filters_alone_count(criterion: str) -> None:
    net = plain(norm=True)
    made = squares(net[0].weight, 0)
    mask = (
        torchthin.prune(net, None, 0.5, criterion=criterion, thin=False).masks["0.weight"].flatten(1).any(1)
    )
    assert set(torch.nonzero(mask).flatten().tolist()) == set(made.argsort()[2:].tolist())


def test_weights_that_are_no_numbers_are_named() -> None:
    net = plain(norm=True)
    net[1].weight.data[0] = torch.inf
    with pytest.raises(InputError, match=r"The weight 1.weight gives channel scores that are not finite"):
        ranking(net, "flow")
