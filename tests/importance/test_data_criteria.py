"""Criteria of data: each against its formula; the model is left as it is."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import torchthin
from torchthin.dependency.components import find_groups
from torchthin.dependency.producers import producers
from torchthin.dependency.propagate import propagate
from torchthin.errors import InputError
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.importance.scores import ranked
from torchthin.importance.statistics import Measure

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _scores(net: nn.Module, criterion: str, measure: Measure) -> dict[str, np.ndarray]:
    labels = propagate(trace(net, as_inputs(X)).graph)
    grouping = find_groups(labels)
    axes = producers(labels)
    values = dict(net.named_parameters()) | dict(net.named_buffers())
    return ranked(grouping.groups.groups, values, axes, criterion, measure.at(grouping, labels, axes)).scores


class Line(nn.Module):
    """One number for one picture: random signs drop out, and taylor is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(108, 5, bias=False), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.flatten(1)))


def test_taylor_of_a_linear_net_is_the_change_of_its_output() -> None:
    torch.manual_seed(0)
    net = Line().double()
    batches = [X[n : n + 1] for n in range(4)]
    found = _scores(net, "taylor", Measure(net, [as_inputs(batch) for batch in batches]))["first.weight"]
    by_hand = np.zeros(5)
    for picture in batches:
        dense = net(picture)
        for channel in range(5):
            less = copy.deepcopy(net)
            less.first.weight.data[channel] = 0
            by_hand[channel] += float(((less(picture) - dense) / dense).square().detach()) / 4
    assert found == pytest.approx(by_hand, rel=1e-9)


def test_taylor_with_a_loss_of_ones_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double().eval()
    found = _scores(
        net, "taylor", Measure(net, (), loss=lambda model: [model(x).square().mean() for x in X.split(2)])
    )
    products = []
    for x in X.split(2):
        (gradient,) = torch.autograd.grad(net(x).square().mean(), [net[0].weight])
        products.append((gradient * net[0].weight).detach().flatten(1).sum(1))
    assert found["0.weight"] == pytest.approx(torch.stack(products).square().mean(0).numpy(), rel=1e-9)


def test_taylor_adds_coupled_layers_before_it_squares() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x) + self.b(x))

    net = Sum().double()
    net.b.weight.data = -net.a.weight.data  # the sum is constant: no channel does anything
    found = _scores(net, "taylor", Measure(net, [as_inputs(X[:1])]))
    assert found["a.weight"] == pytest.approx(np.zeros(4), abs=1e-20)


def test_a_computed_weight_counts_as_the_weight_it_is() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    normed = copy.deepcopy(plain)
    weight_norm(normed[0])
    kept = [
        next(iter(torchthin.prune(net, X, criterion="taylor", data=[X], thin=False).masks.values()))
        for net in (plain, normed)
    ]
    assert kept[0].flatten(1).any(1).tolist() == kept[1].flatten(1).any(1).tolist()


def test_activation_is_the_mean_size_where_channels_are_consumed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    batches = [X[:3], X[3:]]  # the same whatever the batches are
    found = _scores(net, "activation", Measure(net, [as_inputs(batch) for batch in batches]))["0.weight"]
    values = net[:2](X)
    assert found == pytest.approx(values.detach().abs().mean((0, 2, 3)).numpy(), rel=1e-9)


def test_activation_is_the_mean_over_consumers() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            return self.b(a) + self.c(3 * a)

    net = Two().double()
    found = _scores(net, "activation", Measure(net, [as_inputs(X)]))["a.weight"]
    assert found == pytest.approx(2 * net.a(X).detach().abs().mean((0, 2, 3)).numpy(), rel=1e-9)


@pytest.mark.parametrize("criterion", ["taylor", "activation", "reconstruction"])
def test_the_model_is_left_as_it_is(criterion: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 1)).train()
    net[0].weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    torchthin.prune(net, X.float(), criterion=criterion, data=[X.float()], thin=False)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in net.parameters())
    assert net.training


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "hold no input. Give at least one."),
        ([torch.ones(2, 5, 6, 6)], "Item 0 of the calibration data must be shape (n, 3, 6, 6)"),
        ([torch.full((2, 3, 6, 6), torch.nan)], "hold NaN or infinite numbers"),
    ],
)
@pytest.mark.parametrize("criterion", ["taylor", "activation", "reconstruction"])
def test_bad_data_are_refused(criterion: str, data: object, sentence: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(InputError) as caught:
        torchthin.prune(net, X.float(), criterion=criterion, data=data, thin=False)
    assert sentence in str(caught.value)
