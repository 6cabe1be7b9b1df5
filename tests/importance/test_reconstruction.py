"""The criterion `reconstruction`: its scores are errors of least squares, and what it leaves can be refitted better."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import torchthin
from torchthin.dependency.components import find_groups
from torchthin.dependency.producers import producers
from torchthin.dependency.propagate import propagate
from torchthin.errors import ConfigError
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.importance import moments, removal, statistics
from torchthin.importance.scores import Ranking, ranked
from torchthin.importance.statistics import Measure

X = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def ranking(net: nn.Module, batches: list[Tensor], measure: Measure | None = None) -> Ranking:
    labels = propagate(trace(net, as_inputs(X[:2])).graph)
    grouping = find_groups(labels)
    axes = producers(labels)
    values = dict(net.named_parameters()) | dict(net.named_buffers())
    measure = measure or Measure(net, [as_inputs(batch) for batch in batches])
    measured = measure.at(grouping, labels, axes)
    return ranked(grouping.groups.groups, values, axes, "reconstruction", measured)


def error_without(gone: list[int], rows: Tensor, weight: Tensor) -> float:
    """The least error of outputs made of the other channels; rows (n, channels, taps), weight (outputs, channels, taps)."""
    channels = rows.shape[1]
    covariance = torch.cov(rows.flatten(1).T, correction=0)
    power = torch.einsum("oi,ij,oj->", weight.flatten(1), covariance, weight.flatten(1))
    loaded = covariance + removal.RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance)).double()
    column = torch.arange(channels).repeat_interleave(rows.shape[2])
    out = torch.isin(column, torch.tensor(gone))
    lost, stays = weight.flatten(1)[:, out], ~out
    across = loaded[out][:, stays]
    rest = loaded[out][:, out] - across @ torch.linalg.solve(loaded[stays][:, stays], across.T)
    return float(((lost @ rest) * lost).sum() / power)


def test_scores_are_the_errors_of_least_squares_along_the_order() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 4, 3, stride=2, padding=1)).double()
    scores = ranking(net, [X]).scores["0.weight"]
    values = functional.unfold(net[:2](X), 3, stride=2, padding=1).detach().transpose(1, 2).flatten(0, 1)
    rows, weight = values.reshape(-1, 7, 9), net[2].weight.detach().flatten(2)
    order = scores.argsort().tolist()
    for count in range(1, 7):
        assert scores[order[count - 1]] == pytest.approx(error_without(order[:count], rows, weight), rel=1e-8)
    alone = [error_without([channel], rows, weight) for channel in range(7)]
    assert order[0] == int(np.argmin(alone))


def test_errors_of_all_consumers_are_added_up() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Linear(4 * 36, 3)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            return self.b(a).sum((2, 3)).sum(1, keepdim=True) + self.c(a.flatten(1))

    torch.manual_seed(0)
    net = Two().double()
    scores = ranking(net, [X]).scores["a.weight"]
    first = int(scores.argmin())
    values = net.a(X).detach()
    by_pixel = values.movedim(1, -1).flatten(0, 2)[:, :, None]
    expected = error_without([first], by_pixel, net.b.weight.detach().flatten(2))
    expected += error_without([first], values.flatten(2), net.c.weight.detach().reshape(3, 4, 36))
    assert scores[first] == pytest.approx(expected, rel=1e-6)


def test_batches_count_as_one() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1)).double()
    together, apart = (ranking(net, parts).scores["0.weight"] for parts in ([X], [X[:5], X[5:]]))
    assert together == pytest.approx(apart, rel=1e-9)


def test_errors_are_worked_out_once_though_groups_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).double()
    asked: list[int] = []

    def counted(consumers: Sequence[removal.Consumer], channels: int) -> Tensor:
        asked.append(channels)
        return removal.removal_errors(consumers, channels)

    monkeypatch.setattr(statistics, "removal_errors", counted)
    measure = Measure(net, [as_inputs(X)])
    first, second = (ranking(net, [], measure).scores for _ in range(2))
    assert asked == [5, 4]
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_what_others_can_make_goes_first_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)).double()
    net[0].weight.data[2] = 3 * net[0].weight.data[5]
    net[0].bias.data[2] = 3 * net[0].bias.data[5]
    monkeypatch.setattr(removal, "RIDGE", 1e-8)
    scores = ranking(net, [X]).scores["0.weight"]
    assert int(scores.argmin()) in (2, 5)
    assert scores.min() == pytest.approx(0, abs=1e-6)


def test_channels_that_are_joined_with_others_are_ranked() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(9, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))

    found = ranking(Joined().double(), [X])
    assert found.absolute
    assert {name: len(scores) for name, scores in found.scores.items()} == {"a.weight": 4, "b.weight": 5}
    assert all((np.sort(scores)[1:] > np.sort(scores)[:-1]).all() for scores in found.scores.values())


@pytest.mark.parametrize(
    "behind", [lambda: nn.Conv2d(4, 4, 1, groups=2), lambda: nn.ConvTranspose2d(4, 2, 2)]
)
def test_where_nothing_behind_can_be_refitted_l1_ranks_or_it_is_refused(
    behind: Callable[[], nn.Module],
) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), behind()).double()
    with pytest.raises(ConfigError, match="'reconstruction' of prune can rank no channel"):
        ranking(net, [X])
    longer = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.ReLU(), *net)
    found = ranking(longer.double(), [X])
    assert found.fallen_back == ("4.weight",)
    assert not found.absolute


def test_layers_that_are_too_wide_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "WIDEST", 35)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    with pytest.raises(ConfigError, match="can rank no channel"):
        ranking(net, [X])


def test_many_channels_go_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 4, 1)).double()
    one_by_one = ranking(net, [X]).scores["0.weight"]
    monkeypatch.setattr(removal, "ONE_BY_ONE", 4)
    fast = ranking(net, [X]).scores["0.weight"]
    assert not np.array_equal(fast, one_by_one)
    assert len(set(fast.argsort()[:10]) & set(one_by_one.argsort()[:10])) >= 8


def test_what_it_leaves_can_be_refitted_better_than_what_l1_leaves() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)
    )
    inputs = torch.randn(256, 3, 6, 6)
    after = {}
    for criterion in ("l1", "reconstruction"):
        result = torchthin.prune(net, inputs[:1], criterion=criterion, data=inputs)
        recovery = torchthin.recover(net, result, inputs[:1], inputs).report.recovery
        assert recovery is not None
        after[criterion] = recovery.after
    assert after["reconstruction"] < 0.8 * after["l1"]
