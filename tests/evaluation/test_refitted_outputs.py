"""What outputs move by when channels go and consumers are refitted: the same as in a model that is changed by hand."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchthin.dependency.components import find_groups
from torchthin.dependency.producers import producers
from torchthin.dependency.propagate import propagate
from torchthin.evaluation import refitted_outputs
from torchthin.evaluation.distance import DenseOutputs
from torchthin.evaluation.refitted_outputs import RefittedOutputs
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.importance.removal import RIDGE
from torchthin.selection.selection import Keeps

X = torch.randn(48, 3, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def candidates(net: nn.Module, example: Tensor) -> Any:
    """The groups that convolutions and linear layers make."""
    labels = propagate(trace(net, as_inputs(example)).graph)
    grouping = find_groups(labels)
    return SimpleNamespace(
        labels=labels, grouping=grouping, axes=producers(labels), groups=grouping.groups.groups
    )


def moved(net: nn.Module, batch: Tensor, removed: dict[str, list[int]], *, quick: bool = False) -> float:
    among = candidates(net, batch[:2])
    keeps: Keeps = {}
    for group in among.groups:
        keeps[group.name] = ~np.isin(np.arange(group.size), removed.get(group.name, []))
    return RefittedOutputs.of(net, [as_inputs(batch)], {}).distance(among, keeps, quick=quick)


def of_models(dense: nn.Module, other: nn.Module, batch: Tensor) -> float:
    with torch.no_grad():
        return DenseOutputs.of([[dense(batch)]]).distance([[other(batch)]])


def conv(*sizes: int, **options: Any) -> nn.Module:
    return nn.Conv2d(*sizes, **options)


def test_without_a_removal_nothing_moves() -> None:
    net = nn.Sequential(conv(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 2, 1)).double().eval()
    assert moved(net, X, {}) == 0


def test_consumers_are_refitted_by_ridge_least_squares_with_their_mean() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    batch = torch.randn(30, 5, dtype=torch.float64)
    hidden, weight = net[:2](batch).detach(), net[2].weight.detach()
    covariance = torch.cov(hidden.T, correction=0)
    loaded = covariance + RIDGE * covariance.diagonal().mean() * torch.eye(8)
    kept, gone = [0, 2, 3, 5, 6, 7], [1, 4]
    added = torch.linalg.solve(loaded[kept][:, kept], loaded[kept][:, gone] @ weight[:, gone].T)
    fitted = weight[:, kept] + added.T
    other = deepcopy(net)
    other[2] = nn.Linear(8, 3).double()
    other[2].weight.data.zero_()[:, kept] = fitted
    other[2].bias.data = (hidden @ (weight - other[2].weight.data).T).mean(0)
    assert moved(net, batch, {"0.weight": gone}) == pytest.approx(of_models(net, other, batch), rel=1e-5)


class Two(nn.Module):
    """Two groups in one consumer, and one of them in a second consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4, 3, padding=1), conv(3, 5, 3, padding=1)
        self.both, self.one = conv(9, 3, 3, padding=1), conv(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        return self.both(torch.cat([a, self.b(x).relu()], 1)) + self.one(a)


def test_what_is_removed_has_no_effect_left_on_any_consumer() -> None:
    torch.manual_seed(0)
    net, other = Two().double(), Two().double()
    other.load_state_dict(net.state_dict())
    for layer, gone in ((other.a, [1]), (other.b, [0, 3])):
        layer.bias.data[gone] += 7.0
        layer.weight.data[gone] *= -3.0
    removed = {"a.weight": [1], "b.weight": [0, 3]}
    outputs = RefittedOutputs.of(net, [as_inputs(X)], {})
    among = candidates(net, X[:2])
    keeps = {g.name: ~np.isin(np.arange(g.size), removed[g.name]) for g in among.groups}
    fewer = outputs.distance(among, keeps, quick=False)
    outputs.fitted.model = other  # removed channels hold something else, consumers are as they were fitted
    outputs._known.clear()
    assert outputs.distance(among, keeps, quick=False) == pytest.approx(fewer, rel=1e-9)
    assert fewer > 0


@pytest.mark.parametrize("groups", [2, 1])
def test_what_cannot_be_refitted_gets_zeros(groups: int) -> None:
    torch.manual_seed(0)
    behind = conv(4, 4, 1, groups=2) if groups == 2 else nn.ConvTranspose2d(4, 2, 2)
    net = nn.Sequential(conv(3, 4, 3), nn.ReLU(), behind).double()
    masked = deepcopy(net)
    gone = [0, 2] if groups == 2 else [1]
    masked[0].weight.data[gone] = 0
    masked[0].bias.data[gone] = 0
    assert moved(net, X, {"0.weight": gone}) == pytest.approx(of_models(net, masked, X), rel=1e-9)


def test_what_judges_is_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(refitted_outputs, "FEW", 6)
    net = nn.Sequential(nn.Linear(108, 90), nn.ReLU(), nn.Linear(90, 3)).double()
    batch = X.flatten(1)
    gone = {"0.weight": list(range(30))}
    outputs = RefittedOutputs.of(net, [as_inputs(batch)], {})
    assert [len(part.args[0]) for part in outputs.judging] == [6, 6]
    assert sum(len(part.args[0]) for part in outputs.fitted.batches) == 36
    of_themselves = moved(net, batch[:6], gone)  # six inputs are fitted well by sixty channels
    assert moved(net, batch, gone) > 5 * of_themselves
