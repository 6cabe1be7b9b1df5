"""Budgets: what is foretold is what is measured; targets are reached from below, and as close as channels allow."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import torchthin
from torchthin import Budget, PruneConfig, Ratio
from torchthin.config import Target
from torchthin.errors import ConfigError, InputError, TargetMissedError
from torchthin.graph.cost import measure, shares_of_sample
from torchthin.graph.inputs import as_inputs
from torchthin.graph.sample import Sample
from torchthin.graph.trace import trace
from torchthin.pruning.target_plans import Run, thinning_for
from torchthin.selection.channels import lowest
from torchthin.selection.cost_model import CostModel, Counts
from torchthin.selection.prunable_weights import find_prunable_weights
from torchthin.selection.selectors import RatioRule
from torchthin.thinning.apply import thin_copy
from torchthin.thinning.search.constraints import Constraints
from torchthin.thinning.search.trial_loop import find_plan

sys.path.append(str(Path(__file__).parents[1] / "thinning"))
from nets.blocks import BLOCKS, Net
from nets.small import image, lively

X = as_inputs(image())
SAMPLE = Sample(as_inputs(image()[-1:]), True)


def _run(net: nn.Module, target: Target | float, criterion: str = "l1") -> Run:
    targets = find_prunable_weights(net, structured=True, coupled=True)
    return Run(trace(net, X), targets, PruneConfig(target, criterion))  # type: ignore[arg-type]


class Residual(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.a, self.b = nn.Conv2d(width, 24, 3, padding=1), nn.Conv2d(24, width, 3, padding=1)
        self.head = nn.Linear(width * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.b(self.a(x).relu())
        return self.head(nn.functional.avg_pool2d(x, 2).flatten(1))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(BLOCKS)), st.sampled_from([4, 8]), st.integers(0, 3)),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 2),
    st.floats(0.1, 0.9),
)
def test_costs_are_predicted_as_they_are_measured(
    specs: list[tuple[str, int, int]], head: int, share: float
) -> None:
    net = lively(Net(specs, head))
    run = _run(net, share, "random")
    plan = find_plan(
        run.traced, run.selector(RatioRule(run.config.target)), constraints=Constraints(proof="off")
    )
    proposal, whole = plan.proposal, measure(net, SAMPLE)
    costs = CostModel(net, proposal.labels, proposal.grouping, whole, shares_of_sample(net, X, SAMPLE))
    assert costs.cost({}) == Counts(whole.parameters, whole.macs)
    thin = measure(thin_copy(net, plan.recipe), SAMPLE) if plan.recipe else whole
    added = sum(int(np.prod(shape)) for shape in plan.recipe.added.values())
    cost = costs.cost(proposal.selection.keeps)
    assert (cost.parameters + added, cost.macs) == (thin.parameters, thin.macs)


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize(
    "targets",
    [{"macs": "0.5x"}, {"params": "0.3x"}, {"params": "0.5x", "macs": "0.3x"}, {"macs": "300000"}],
)
def test_no_group_can_be_wider_within_the_budgets(targets: dict[str, str], scope: str) -> None:
    net = lively(Residual())
    whole = measure(net, SAMPLE)
    target = torchthin.Budget(**targets, scope=scope)
    run = _run(net, target)
    found, (budgets,) = thinning_for(target, run)
    assert all(budget.after <= budget.limit for budget in budgets.facts)
    most = {budget.name: budget.limit for budget in budgets.facts}
    proposal = found.proposal
    costs = CostModel(net, proposal.labels, proposal.grouping, whole, shares_of_sample(net, X, SAMPLE))
    selection = proposal.selection
    assert selection.ranking is not None
    for group in selection.groups:
        removed = int((~selection.keeps[group.name]).sum())
        if not removed:
            continue
        wider = lowest(group, selection.ranking.scores[group.name], removed - 1)
        assert any(
            costs.cost({**selection.keeps, group.name: wider}).of(name) > limit
            for name, limit in most.items()
        )


def test_a_uniform_cut_stays_within_a_channel_of_uniform_or_gives_back() -> None:
    net = lively(Residual(64))
    result = torchthin.prune(net, image(), Budget(macs="0.5x"))
    (budget,) = result.report.section("budgets").facts
    assert 0.97 * budget.limit < budget.after <= budget.limit
    assert budget.after == result.report.thinned.after.macs
    gone = [layer.channel_sparsity for layer in result.report.layers if layer.pruned_channels]
    assert max(gone) - min(gone) < 0.1
    assert result.proof is not None
    assert result.proof.holds


def test_the_report_says_asked_and_reached() -> None:
    result = torchthin.prune(Residual(), image(), Budget(macs=400_000, params="0.4x"), thin=False)
    facts = {budget.name: budget for budget in result.report.section("budgets").facts}
    before = measure(Residual(), SAMPLE)
    assert facts["parameters"].before == before.parameters
    assert facts["parameters"].limit == int(0.4 * before.parameters)
    assert facts["macs"].limit == 400_000
    assert f"at most 400,000 of {before.macs:,} MACs per sample, reached {facts['macs'].after:,}" in str(
        result
    )
    assert result.report.to_dict()["budgets"][1]["limit"] == 400_000
    assert result.report.target_reached


def test_biases_that_thinning_adds_are_within_the_budget() -> None:
    class Bare(nn.Module):
        """The second convolution has no bias and no BatchNorm: constants of the first add one."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 24, 1, bias=False)
            self.c = nn.Conv2d(24, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x).relu()).relu())

    net = lively(Bare())
    for share in np.linspace(0.3, 0.9, 13):
        result = torchthin.prune(net, image(), Budget(params=f"{share:.3f}x"), add_biases=True)
        assert result.recipe is not None
        assert result.report.thinned.after.parameters == sum(p.numel() for p in result.model.parameters())
        assert result.report.thinned.after.parameters <= result.report.section("budgets").facts[0].limit
    assert result.recipe.added


def test_all_of_what_there_was_prunes_nothing() -> None:
    result = torchthin.prune(Residual(), image(), Budget(params="1x"), thin=False)
    assert result.report.total.pruned_channels == 0


@pytest.mark.parametrize("scope", ["group", "global"])
def test_with_a_sparsity_as_well_both_hold(scope: str) -> None:
    net = lively(Residual())
    loose = torchthin.prune(net, image(), Budget(macs="0.9x", ratio=0.5, scope=scope), thin=False)
    plain = torchthin.prune(net, image(), Ratio(0.5, scope=scope), thin=False)
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in loose.masks.items())
    tight = torchthin.prune(net, image(), Budget(macs="0.1x", ratio=0.5, scope=scope), thin=False)
    assert tight.report.total.pruned_channels > plain.report.total.pruned_channels
    assert tight.report.section("budgets").facts[0].after <= tight.report.section("budgets").facts[0].limit


def test_less_than_one_channel_of_every_group_is_refused_with_the_least() -> None:
    net = Residual()
    with pytest.raises(
        InputError, match=r"asked parameters of 0.001x, the least is \d[\d,]* parameters \(0.0\d\dx\)"
    ) as caught:
        torchthin.prune(net, image(), Budget(params="0.001x"), thin=False)
    assert "where one channel of every group is kept" in str(caught.value)
    least = int(str(caught.value).partition("the least is ")[2].split()[0].replace(",", ""))
    result = torchthin.prune(net, image(), Budget(params=least))
    assert result.report.thinned.after.parameters == least
    assert [layer.filters - layer.pruned_channels for layer in result.report.layers] == [1, 1, 1]
    with pytest.raises(InputError):
        torchthin.prune(net, image(), Budget(params=least - 1), thin=False)
    with pytest.raises(InputError, match=r"where 0\.1 of every group is kept"):
        torchthin.prune(net, image(), Budget(params=least, scope="global"), thin=False)


def test_a_budget_that_frozen_channels_make_impossible_is_missed() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if y.shape[1] != 32:
                raise RuntimeError("thirty-two")
            return self.b(y)

    with pytest.raises((TargetMissedError, InputError), match="cannot be reached"):
        torchthin.prune(Fixed(), image(), Budget(params="0.5x"), thin=False)


def test_a_budget_needs_example_inputs() -> None:
    with pytest.raises(ConfigError, match="example_inputs are needed for Budget"):
        torchthin.prune(Residual(), None, Budget(macs="0.5x"), thin=False)
