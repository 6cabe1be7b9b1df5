"""Laws of a budget that measured losses spread: no group loses more than was measured, and every group keeps its floor."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin import Budget
from torchthin.config import Ratio
from torchthin.errors import BudgetError, ConfigError
from torchthin.pruning.plan import PruningPlan
from torchthin.selection.sensitivity_table import Sensitivity

sys.path.append(str(Path(__file__).parents[1] / "thinning"))
from nets.blocks import BLOCKS, Net
from nets.small import image, lively


class Residual(nn.Module):
    """Two stages of residual blocks; what is added makes one group of each stage."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 1, stride=2)
        self.first = nn.ModuleList(self.branch(16) for _ in range(2))
        self.second = nn.ModuleList(self.branch(24) for _ in range(2))
        self.head = nn.Linear(24, 5)

    @staticmethod
    def branch(width: int) -> nn.Module:
        inner = (nn.Conv2d(width, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU())
        return nn.Sequential(*inner, nn.Conv2d(20, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.first:
            x = x + block(x)
        x = self.down(x).relu()
        for block in self.second:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


@cache
def net_and_table(name: str, *ratios: float) -> tuple[nn.Module, Sensitivity]:
    net = lively(Residual() if name == "residual net" else Net([("residual", 8, 1), (name, 8, 0)], 0))
    return net, torchthin.sensitivity(net, image(), ratios=ratios)


def removed(plan: PruningPlan) -> dict[str, int]:
    assert plan.thinning is not None
    return {name: int((~keep).sum()) for name, keep in plan.thinning.proposal.selection.keeps.items()}


@pytest.mark.parametrize("name", ["residual net", *sorted(BLOCKS)])
def test_no_group_loses_more_than_was_measured(name: str) -> None:
    net, table = net_and_table(name, 0.3, 0.7)
    try:
        plan = torchthin.plan(net, image(), Budget(macs="0.5x", allocation=table))
    except BudgetError as error:  # what may go is not enough, and that is said
        assert "no group loses more than was measured" in str(error)
        plan = torchthin.plan(net, image(), Budget(macs="0.8x", allocation=table))
    lost = removed(plan)
    assert any(lost.values())
    for group, count in lost.items():
        curve = table.curve(group)
        most = 0 if curve is None else max(curve.gone, default=0)
        assert count <= most, group
        assert curve is None or count <= 0.7 * curve.size


@pytest.mark.parametrize("floor", [0.4])
@pytest.mark.parametrize("name", ["residual net", *sorted(BLOCKS)])
def test_every_group_keeps_its_floor(name: str, floor: float) -> None:
    net, table = net_and_table(name, 0.3, 0.7)
    try:
        plan = torchthin.plan(net, image(), Budget(params="0.7x", allocation=table, at_least=floor))
    except BudgetError as error:
        assert f"{floor:g} of every group is kept" in str(error)
        return
    assert plan.thinning is not None
    for group, keep in plan.thinning.proposal.selection.keeps.items():
        assert keep.sum() >= math.ceil(floor * keep.size), group


def test_a_budget_goes_as_far_as_was_measured_and_no_further() -> None:
    net, table = net_and_table("residual net", 0.25)
    most = {curve.name: curve.size // 4 for curve in table.groups}
    with pytest.raises(BudgetError, match="no group loses more than was measured") as caught:
        torchthin.plan(net, image(), Budget(macs=1000, allocation=table))
    least = int(str(caught.value).partition("the least is ")[2].split()[0].replace(",", ""))
    assert removed(torchthin.plan(net, image(), Budget(macs=least, allocation=table))) == most
    uniform = removed(torchthin.plan(net, image(), Ratio(0.25)))
    assert uniform == most


def test_a_share_of_all_channels_beyond_what_was_measured_is_refused() -> None:
    net, table = net_and_table("residual net", 0.25)
    with pytest.raises(BudgetError, match=r"30 of 120 channels removed \(asked 0\.3\)"):
        torchthin.plan(net, image(), Budget(macs="1x", ratio=0.3, allocation=table))


def test_what_was_not_measured_stays_whole_and_is_named() -> None:
    net, table = net_and_table("residual net", 0.3, 0.7)
    first, *others = table.groups
    plan = torchthin.plan(net, image(), Budget(macs="0.8x", allocation=replace(table, groups=tuple(others))))
    assert removed(plan)[first.name] == 0
    assert f"Kept whole, since the allocation did not measure them: {first.name}." in plan.explain()
    assert "channels chosen to stay within the budget (where the measured losses are least)" in plan.explain()


def test_a_table_that_was_just_made_goes_with_its_model() -> None:
    """Trials of the scan froze groups, which are groups again before those of the run."""
    for name in ("standardised", "half_way"):
        net, table = net_and_table(name, 0.3, 0.7)
        auto = torchthin.prune(net, image(), Budget(macs="0.9x", allocation="auto"))
        told = torchthin.prune(
            net, image(), Budget(macs="0.9x", allocation=torchthin.sensitivity(net, image()))
        )
        assert all(np.array_equal(mask, told.masks[key]) for key, mask in auto.masks.items())
        assert table.groups


def test_a_floor_needs_groups_that_lose_different_shares() -> None:
    with pytest.raises(ConfigError, match="None without scope='global' or an allocation"):
        Budget(macs="0.5x", at_least=0.2)
    assert Budget(macs="0.5x", at_least=0.2, allocation="auto").floor == 0.2
    assert Budget(macs="0.5x", allocation="auto").floor == 0.1
