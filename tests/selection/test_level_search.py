"""Levels that are searched together: within the target, never worse than the start, and better where losses do not add up."""

import pytest
import torch
from torch import nn

import torchthin
from torchthin import Budget
from torchthin.errors import ConfigError
from torchthin.selection.allocator import Levels
from torchthin.selection.level_search import searched

CHOICES = [list(range(9))] * 4
START = (3, 3, 3, 3)


def too_few(levels: Levels) -> float:
    """At least twelve must go."""
    return 12 - sum(levels)


def together(levels: Levels, quick: bool) -> float:
    """The first two make up for each other, which single losses cannot tell."""
    a, b, c, d = levels
    return (a - b) ** 2 * 0.1 - 0.5 * min(a, b) + 0.3 * (c * c + d * d)


def test_what_groups_are_to_each_other_is_found() -> None:
    best = searched(START, CHOICES, too_few, together)
    assert too_few(best) <= 0
    assert together(best, False) < together(START, False) - 4
    assert best == searched(START, CHOICES, too_few, together)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_never_worse_than_the_start(seed: int) -> None:
    torch.manual_seed(seed)
    table = torch.rand(9, 9, 9, 9)
    best = searched(START, CHOICES, too_few, lambda levels, quick: float(table[levels]))
    assert table[best] <= table[START]
    assert too_few(best) <= 0


def test_few_inputs_choose_and_many_decide() -> None:
    asked: list[bool] = []

    def misleading(levels: Levels, quick: bool) -> float:
        asked.append(quick)
        return -together(levels, quick) if quick else together(levels, quick)

    best = searched(START, CHOICES, too_few, misleading)
    assert together(best, False) <= together(START, False)
    assert asked.count(True) > 2 * asked.count(False)


class Net(nn.Module):
    """The outputs use all of the second layer, and of the first one what four channels can make."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3), nn.Linear(16, 16)
        self.a.weight.data[4:] = self.a.weight.data[:4].repeat(3, 1, 1, 1)
        self.a.bias.data[4:] = self.a.bias.data[:4].repeat(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("limit", [{"macs": "0.4x"}, {"params": "0.4x"}])
def test_a_budget_goes_where_the_outputs_move_least(limit: dict[str, str]) -> None:
    net, images = Net(), torch.randn(128, 3, 6, 6)
    result = torchthin.prune(
        net, images[:1], Budget(**limit, allocation="outputs"), criterion="reconstruction", data=images
    )
    (facts,) = result.report.section("budgets").facts
    assert facts.after <= facts.limit
    assert result.model.b.out_channels >= 13
    assert result.model.a.out_channels <= 7
    assert "where the outputs move least" in str(result.report)


def test_outputs_need_data() -> None:
    with pytest.raises(ConfigError, match="The allocation 'outputs' needs data"):
        torchthin.prune(Net(), torch.randn(1, 3, 6, 6), Budget(macs="0.5x", allocation="outputs"))
