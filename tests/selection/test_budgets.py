"""Budgets: what is foretold is what is measured; targets are reached from below, and as close as channels allow."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchthin.pruning.within_budget import plan_within

import torchthin
from torchthin.config import parse_limit
from torchthin.errors import ConfigError, InputError, TargetMissedError
from torchthin.graph.cost import measure
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.selection.budget import by_budget, wider_by_one
from torchthin.selection.cost_model import Ledger
from torchthin.selection.selectors import ByImportance
from torchthin.selection.targets import find_targets
from torchthin.thinning.apply import thin_copy
from torchthin.thinning.plan import find_plan

sys.path.append(str(Path(__file__).parents[1] / "thinning"))
from nets.blocks import BLOCKS, Net
from nets.small import image, lively

X = as_inputs(image())


def _decide(
    net: nn.Module, sparsity: float = 0.5, scope: str = "group", criterion: str = "l1"
) -> ByImportance:
    plan = find_targets(net, structured=True, coupled=True)
    return ByImportance(net, plan.targets, frozenset(), sparsity, scope, criterion, derived=plan.derived)


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
def test_the_ledger_foretells_what_is_measured(
    specs: list[tuple[str, int, int]], head: int, share: float
) -> None:
    net = lively(Net(specs, head))
    plan = find_plan(trace(net, X), _decide(net, share, criterion="random"), prove=False)
    proposal, whole = plan.proposal, measure(net, X)
    ledger = Ledger(net, proposal.labels, proposal.grouping, whole)
    assert (ledger.spent({}).parameters, ledger.spent({}).macs) == (whole.parameters, whole.macs)
    thin = measure(thin_copy(net, plan.recipe), X) if plan.recipe else whole
    added = sum(int(np.prod(shape)) for shape in plan.recipe.added.values())
    spent = ledger.spent(proposal.selection.keeps)
    assert (spent.parameters + added, spent.macs) == (thin.parameters, thin.macs)


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize(
    "targets",
    [{"macs": "0.5x"}, {"parameters": "0.3x"}, {"parameters": "0.5x", "macs": "0.3x"}, {"macs": "300000"}],
)
def test_no_group_can_be_wider_within_the_budgets(targets: dict[str, str], scope: str) -> None:
    net = lively(Residual())
    whole = measure(net, X)
    limits = {name: parse_limit(name, text) for name, text in targets.items()}
    decide = by_budget(_decide(net, 0.0, scope), limits, whole)
    found, cost = plan_within(trace(net, X), decide)
    counts = {"parameters": cost.parameters, "macs": cost.macs}
    most = {name: limit.of(getattr(whole, name)) for name, limit in limits.items()}
    assert all(counts[name] <= most[name] for name in targets)
    assert decide.ledger is not None
    assert decide.ranking is not None
    assert decide.chosen is not None
    keeps = found.proposal.selection.keeps
    for group in decide.chosen.groups:
        wider = wider_by_one(group, decide.ranking.scores[group.name], keeps[group.name])
        assert wider is None or any(
            decide.ledger.spent({**keeps, group.name: wider}).of(name) > limit for name, limit in most.items()
        )


def test_a_uniform_cut_stays_within_a_channel_of_uniform_or_gives_back() -> None:
    net = lively(Residual(64))
    result = torchthin.prune(net, image(), torchthin.Budget(macs="0.5x"))
    (budget,) = result.report.budgets
    assert 0.97 * budget.limit < budget.after <= budget.limit
    assert budget.after == result.report.thinned_macs
    gone = [layer.channel_sparsity for layer in result.report.layers if layer.pruned_channels]
    assert max(gone) - min(gone) < 0.1
    assert result.proof is not None
    assert result.proof.holds


def test_the_report_says_asked_and_reached() -> None:
    result = torchthin.prune(Residual(), image(), torchthin.Budget(macs=400_000, params="0.4x"), thin=False)
    facts = {budget.name: budget for budget in result.report.budgets}
    before = measure(Residual(), X)
    assert facts["parameters"].before == before.parameters
    assert facts["parameters"].limit == int(0.4 * before.parameters)
    assert facts["macs"].limit == 400_000
    assert f"at most 400,000 of {before.macs:,} MACs, reached {facts['macs'].after:,}" in str(result)
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
        result = torchthin.prune(net, image(), torchthin.Budget(params=f"{share:.3f}x"))
        assert result.recipe is not None
        assert result.report.thinned_parameters == sum(p.numel() for p in result.model.parameters())
        assert result.report.thinned_parameters <= result.report.budgets[0].limit
    assert result.recipe.added


def test_all_of_what_there_was_prunes_nothing() -> None:
    result = torchthin.prune(Residual(), image(), torchthin.Budget(params="1x"), thin=False)
    assert result.report.pruned_channels == 0


@pytest.mark.parametrize("scope", ["group", "global"])
def test_with_a_sparsity_as_well_both_hold(scope: str) -> None:
    net = lively(Residual())
    loose = torchthin.prune(net, image(), torchthin.Budget(macs="0.9x", ratio=0.5, scope=scope), thin=False)
    plain = torchthin.prune(net, image(), torchthin.Ratio(0.5, scope=scope), thin=False)
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in loose.masks.items())
    tight = torchthin.prune(net, image(), torchthin.Budget(macs="0.1x", ratio=0.5, scope=scope), thin=False)
    assert tight.report.pruned_channels > plain.report.pruned_channels
    assert tight.report.budgets[0].after <= tight.report.budgets[0].limit


def test_less_than_one_channel_of_every_group_is_refused_with_the_least() -> None:
    net = Residual()
    with pytest.raises(
        InputError, match=r"asked parameters of 0.001x, the least is \d[\d,]* parameters \(0.0\d\dx\)"
    ) as caught:
        torchthin.prune(net, image(), torchthin.Budget(params="0.001x"), thin=False)
    assert "where one channel of every group stays" in str(caught.value)
    least = int(str(caught.value).partition("the least is ")[2].split()[0].replace(",", ""))
    result = torchthin.prune(net, image(), torchthin.Budget(params=least))
    assert result.report.thinned_parameters == least
    assert [layer.filters - layer.pruned_channels for layer in result.report.layers] == [1, 1, 1]
    with pytest.raises(InputError):
        torchthin.prune(net, image(), torchthin.Budget(params=least - 1), thin=False)
    with pytest.raises(InputError, match=r"where 0\.1 of every group stays"):
        torchthin.prune(net, image(), torchthin.Budget(params=least, scope="global"), thin=False)


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
        torchthin.prune(Fixed(), image(), torchthin.Budget(params="0.5x"), thin=False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"target_macs": "1.5x"},
            "The target_macs of prune must be a share such as 0.6x, up to 1x, or a whole number.",
        ),
        ({"target_params": "some"}, "The target_params of prune must be a share"),
        ({"target_params": "0.5x", "method": "agp-unstructured"}, "given with a structured method"),
        ({"target_macs": "0.5x", "compat": "distiller"}, "without compat and chip"),
        ({"target_macs": "0.5x", "chip": "MAX78000", "fit": True}, "without compat and chip"),
    ],
)
def test_bad_budgets_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        torchthin.prune(Residual(), image(), **options)  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_a_budget_needs_example_inputs() -> None:
    with pytest.raises(ConfigError, match="target_macs of prune need example_inputs"):
        torchthin.prune(Residual(), None, torchthin.Budget(macs="0.5x"), thin=False)
