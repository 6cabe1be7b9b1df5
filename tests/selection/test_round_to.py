"""``round_to``: what is kept of every group's part of an axis is a multiple, and no more channels are kept than that needs."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets.blocks import BLOCKS, Net
from nets.small import image, lively
from torch import Tensor, nn

import torchthin
from torchthin import Budget, Pruner, Ratio, Schedule
from torchthin.dependency.components import find_groups
from torchthin.dependency.groups import Group, IntArray, Member, uncoupled
from torchthin.dependency.propagate import propagate
from torchthin.errors import ConfigError
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.selection.channels import prune_count, select_channels

TARGETS = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 60), TARGETS, st.integers(1, 17))
def test_as_many_go_as_leave_a_multiple(size: int, target: float, multiple: int) -> None:
    scores = np.random.default_rng(size).random(size)
    keep = select_channels([uncoupled("g", 0, size)], {"g": scores}, target, round_to=multiple)["g"]
    asked, gone = prune_count(target, size), int((~keep).sum())
    fits = [count for count in range(asked + 1) if count == 0 or (size - count) % multiple == 0]
    assert gone == max(fits)
    assert not keep[np.argsort(scores)[:gone]].any()


@given(st.integers(1, 60), TARGETS, TARGETS, st.integers(1, 17))
def test_a_higher_target_holds_a_lower_one(size: int, a: float, b: float, multiple: int) -> None:
    group, scores = uncoupled("g", 0, size), {"g": np.random.default_rng(size).random(size)}
    low, high = (select_channels([group], scores, t, round_to=multiple)["g"] for t in (min(a, b), max(a, b)))
    assert (high <= low).all()


def test_each_part_of_a_group_is_rounded() -> None:
    # Two layers make halves of a split: equal numbers go from both, and four of each layer must stay at least.
    parts = [np.arange(8), np.arange(8, 16)]
    members = tuple(Member(f"layer{n}", 0, np.arange(8)[:, None], part) for n, part in enumerate(parts))
    group = Group("g", 16, members, (np.arange(16).reshape(2, 8),))
    for target, each in ((0.7, 4), (0.5, 4), (0.4, 8)):
        keep = select_channels([group], {"g": np.arange(16.0)}, target, round_to=4)["g"]
        assert [int(keep[part].sum()) for part in parts] == [each, each], target


def assert_multiples(model: nn.Module, small: nn.Module, multiple: int) -> int:
    """Check every axis that was cut; return how many were."""
    before = {name: p.shape for name, p in model.named_parameters()}
    cut = [
        (name, axis, n)
        for name, p in small.named_parameters()
        for axis, (n, whole) in enumerate(zip(p.shape, before.get(name, p.shape), strict=True))
        if n != whole
    ]
    assert [item for item in cut if item[2] % multiple] == []
    return len(cut)


specs = st.tuples(st.sampled_from(sorted(BLOCKS)), st.sampled_from([8, 12, 16]), st.integers(0, 3))


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    st.lists(specs, min_size=1, max_size=3), st.integers(0, 2), st.floats(0.2, 0.8), st.sampled_from([2, 4])
)
def test_every_part_of_an_axis_of_any_net_is_rounded(
    plan: list[tuple[str, int, int]], head: int, share: float, multiple: int
) -> None:
    net = lively(Net(plan, head))
    result = torchthin.prune(net, image(), Ratio(share, round_to=multiple), include=["*"])
    keep = result.recipe.keep if result.recipe else {}
    groups = find_groups(propagate(trace(net, as_inputs(image())).graph)).groups.groups
    for group in groups:
        parts: dict[tuple[str, int], list[IntArray]] = {}
        for member in group.members:
            parts.setdefault((member.parameter, member.axis), []).append(member.indices.reshape(-1))
        for (name, axis), indices in parts.items():
            part = np.concatenate(indices)
            stay = np.isin(part, keep.get(name, {}).get(axis, part))
            assert stay.all() or stay.sum() % multiple == 0, (group.name, name, axis)
    assert result.proof is None or result.proof.holds


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.b, self.c = nn.Conv2d(24, 40, 3, padding=1), nn.Conv2d(40, 20, 1)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(self.b(self.norm(self.a(x)).relu()).relu()).relu()
        return self.head(y.mean((2, 3)))


def test_the_target_is_met_as_far_as_rounding_lets_it() -> None:
    net = lively(Wide())
    result = torchthin.prune(net, image(), Ratio(0.6, round_to=8))
    assert [result.model.a.out_channels, result.model.b.out_channels, result.model.c.out_channels] == [
        16,
        16,
        8,
    ]
    assert [layer.asked for layer in result.report.layers] == [8, 24, 12]
    assert result.report.target_reached
    alone = torchthin.prune(net, None, Ratio(0.6, round_to=8), thin=False)  # every weight for itself
    assert [int(m.flatten(1).any(1).sum()) for m in alone.masks.values()] == [16, 16, 8]


@pytest.mark.parametrize("criterion", [None, "lamp"])
def test_over_all_groups_together_too(criterion: str | None) -> None:
    net = lively(Wide())
    target = Ratio(0.5, scope="global", round_to=4)
    result = torchthin.prune(net, image(), target, criterion=criterion)
    assert assert_multiples(net, result.model, 4) > 3
    gone = sum(layer.pruned_channels for layer in result.report.layers)
    assert 42 - 3 * 3 <= gone <= 42
    assert result.report.target_reached


@pytest.mark.parametrize("allocation", [None, "auto"])
def test_budgets_hold_with_it(allocation: str | None) -> None:
    net = lively(Wide())
    target = Budget(macs="0.5x", round_to=8, allocation=allocation)
    result = torchthin.prune(net, image(), target, data=torch.randn(8, 3, 8, 8) if allocation else None)
    assert assert_multiples(net, result.model, 8) > 3
    (budget,) = result.report.section("budgets").facts
    assert budget.after <= budget.limit


def test_masks_that_grow_are_multiples_at_every_step() -> None:
    net = lively(Wide())
    pruner = Pruner(net, image(), Ratio(0.7, round_to=4), schedule=Schedule(steps=5))
    kept = []
    for _ in range(5):
        pruner.step()
        kept.append([int(m.flatten(1).any(1).sum()) for m in pruner.masks.values()])
    assert kept[-1] == [8, 12, 8]
    assert all(n % 4 == 0 for step in kept for n in step)
    assert kept == sorted(kept, reverse=True)
    pruner.thin_()
    assert net.b.weight.shape == (12, 8, 3, 3)


@pytest.mark.parametrize("target", [Ratio, partial(Budget, macs="0.5x")])
@pytest.mark.parametrize("round_to", [0, 2.5])
def test_it_is_a_whole_number(target: Callable[..., object], round_to: float) -> None:
    with pytest.raises(ConfigError, match=r"must be a whole number of at least 1\. Got"):
        target(round_to=round_to)
