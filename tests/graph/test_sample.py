"""Law: multiply-accumulates are those of one sample, whatever the example's batch size, or it is said that they are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin import Budget
from torchthin.graph.cost import measure
from torchthin.graph.inputs import as_inputs
from torchthin.graph.sample import one_sample


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = (
            nn.Conv2d(3, 12, 3),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.Linear(12, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.branch(x)
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    """Time comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.head = nn.Linear(6, 30), nn.LSTM(30, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.first(x).relu())[0])


class Masked(nn.Module):
    """Attention over positions, with a mask and positions that have no batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.wide, self.narrow, self.head = nn.Linear(16, 40), nn.Linear(40, 16), nn.Linear(16, 20)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.words(tokens)
        x = x + self.attention(x, x, x, attn_mask=mask)[0]
        return self.head(x + self.narrow(self.wide(x).relu()))


class Computed(nn.Module):
    """The second filters are computed from a table, once for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 24), nn.Linear(24, 3)
        self.table, self.mix = nn.Parameter(torch.randn(24, 9)), nn.Parameter(torch.randn(9, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x).relu() @ (self.table @ self.mix)).relu())


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).view(8, -1).relu())


class Similarity(nn.Module):
    """Every sample is compared with every other one: what an entry costs depends on the number of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.first(x).relu())
        return x @ x.mT


def example(net: nn.Module, batch: int) -> Any:
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if isinstance(net, Residual):
        return numbers(batch, 3, 9, 9)
    if isinstance(net, Recurrent):
        return numbers(5, batch, 6)
    if isinstance(net, Masked):
        mask = torch.full((7, 7), -torch.inf).triu(1)
        return {"mask": mask, "tokens": torch.randint(20, (batch, 7), generator=generator)}
    return numbers(batch, 10)


NETS = [Residual, Recurrent, Masked, Computed, Similarity]


@pytest.mark.parametrize("make", NETS)
def test_costs_do_not_depend_on_the_batch_size(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = make()
    costs = [measure(net, one_sample(net, as_inputs(example(net, batch)))) for batch in (1, 2, 8)]
    assert costs[0].macs > 0
    assert costs == [costs[0]] * 3
    assert costs[0].macs_per_sample


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("limit", ["0.8x", "number"])
def test_a_budget_selects_the_same_channels_whatever_the_batch_size(
    make: type[nn.Module], limit: str
) -> None:
    torch.manual_seed(0)
    net = make()
    if limit == "number":
        limit = str(measure(net, one_sample(net, as_inputs(example(net, 1)))).macs * 8 // 10)
    one, many = (
        torchthin.prune(
            net, example(net, batch), Budget(macs=limit), include=["wide.weight"] if make is Masked else ["*"]
        )
        for batch in (1, 8)
    )
    assert one.masks.keys() == many.masks.keys()
    assert all(torch.equal(mask, many.masks[name]) for name, mask in one.masks.items())
    assert any(not mask.all() for mask in one.masks.values())
    for result in (one, many):
        facts, thinned = result.report.to_dict(), result.report.thinned
        assert thinned is not None
        (budget,) = facts["budgets"]
        assert budget["after"] <= budget["limit"]
        assert (budget["before"], budget["after"]) == (facts["macs"], facts["thinned_macs"])
        assert facts["macs_per_sample"]
        assert f"of {budget['before']:,} MACs per sample, reached {budget['after']:,}" in str(result)
        assert f"MACs per sample {facts['macs']:,} -> {facts['thinned_macs']:,}" in str(result)
    assert one.report.thinned is not None
    assert many.report.thinned is not None
    assert one.report.thinned.after == many.report.thinned.after


def test_where_no_batch_axis_is_told_the_whole_example_is_counted_and_named() -> None:
    net = Fixed()
    x = torch.randn(8, 10)
    result = torchthin.prune(net, x, Budget(macs="0.5x"))
    assert result.report.to_dict()["macs"] == 8 * (10 * 24 + 24 * 3) == 2496
    assert result.report.to_dict()["macs_per_sample"] is False
    assert "of 2,496 MACs of the whole example, reached 1,248" in str(result)
    assert "MACs of the whole example 2,496 -> 1,248" in str(result)
    assert "per sample" not in str(result)


def test_an_image_without_a_batch_is_counted_whole() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    sample = one_sample(net, as_inputs(torch.randn(3, 9, 9)))
    assert not sample.is_single
    assert measure(net, sample).macs == 8 * 27 * 49 + 4 * 72 * 25


@pytest.mark.parametrize("batch", [1, 8])
def test_steps_before_the_batch_are_no_samples(batch: int) -> None:
    net = Recurrent()
    sample = one_sample(net, as_inputs(torch.randn(5, batch, 6)))
    assert [tuple(tensor.shape) for tensor in sample.inputs.tensors()] == [(5, 1, 6)]


def test_the_model_is_left_as_it_is() -> None:
    net = nn.Sequential(torch.ao.quantization.MovingAverageMinMaxObserver(), nn.Linear(3, 4)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    one_sample(net, as_inputs(torch.randn(6, 3)))
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
