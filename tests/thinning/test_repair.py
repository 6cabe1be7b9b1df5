"""Law: every failure of a trial leads to other constraints, whatever op failed, and nothing that was known is lost by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nets.blocks import Net
from nets.small import lively
from torch import nn

from torchthin.config import Ratio
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import read_sizes, trace
from torchthin.graph.tracked import Attribute
from torchthin.selection.prunable_weights import find_prunable_weights
from torchthin.selection.selectors import ImportanceSelector, RatioRule
from torchthin.thinning.search.constraints import Constraints, Proposal, Provisional, propose
from torchthin.thinning.search.outcome import Failure
from torchthin.thinning.search.repair import repaired


def proposal_for(name: str, constraints: Constraints | None = None) -> Proposal:
    model = lively(Net([(name, 8, 1), ("conv", 8, 0)], 0)).eval()
    traced = trace(model, as_inputs(torch.randn(2, 3, 10, 10)))
    targets = find_prunable_weights(model, structured=True, include=("*",))
    select = ImportanceSelector(model, targets, RatioRule(Ratio(0.5)))
    return propose(
        traced,
        select,
        constraints or Constraints(),
        lambda: read_sizes(traced),
    )


def without_counts(constraints: Constraints) -> Constraints:
    return replace(constraints, failures={})


@pytest.mark.parametrize("raised", [True, False])
@pytest.mark.parametrize("name", ["conv", "chunked", "attention", "multihead", "shuffled", "recurrent"])
def test_every_failure_teaches_something(name: str, raised: bool) -> None:
    proposal = proposal_for(name)
    before = replace(proposal.constraints)
    for op in proposal.traced.graph.ops:
        failure = Failure(op.index, "it broke", raised)
        constraints = repaired(failure, proposal)
        assert without_counts(constraints) != without_counts(proposal.constraints), op
        assert sum(constraints.failures.values()) > sum(before.failures.values())
        assert constraints == repaired(failure, proposal)
    assert proposal.constraints == before


def test_what_no_remedy_helps_is_frozen_with_the_failure_as_the_reason() -> None:
    proposal = proposal_for("conv")
    op = next(op for op in proposal.traced.graph.ops if op.name in {"aten.relu", "aten.sigmoid"})
    constraints = repaired(Failure(op.index, "it broke"), proposal)
    assert {(axis.op, axis.axis, axis.text) for axis in constraints.frozen.values()} == {
        (op.index, 1, "it broke")
    }
    groups = proposal_for("conv", constraints).grouping.groups
    assert any(item.reason.startswith("it broke") for item in groups.frozen)


def test_an_attribute_that_does_not_help_is_taken_back_and_not_tried_again() -> None:
    known = Constraints(
        attributes={Attribute("head", "scale"): (0, 0)}, rejected=frozenset({Attribute("stem", "width")})
    )
    graph = proposal_for("conv").traced.graph
    maker = next(op for op in graph.ops if op.results)
    constraints = replace(known, attributes={Attribute("head", "scale"): (maker.results[0], 1)})
    changed = constraints.without_attributes(maker.index, graph)
    assert changed is not None
    assert changed.attributes == {}
    assert changed.rejected == {("stem", "width"), ("head", "scale")}
    assert changed.without_attributes(maker.index, graph) is None


def test_an_attribute_that_breaks_what_is_whole_is_taken_back_before_anything_else_is_blamed() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 3)))
    traced = trace(model, as_inputs(torch.randn(2, 4)))
    targets = find_prunable_weights(model, structured=True, include=("0.weight",))
    select = ImportanceSelector(model, targets, RatioRule(Ratio(0.5)))
    proposal = propose(traced, select, Constraints(), lambda: read_sizes(traced))
    _, middle, last = (
        op for op in traced.graph.ops if op.name == "aten.addmm" and op.source.module[0] == "1"
    )
    key = Attribute("1", "width")
    constraints = Constraints(
        attributes={key: (last.results[0], 1)}, new_attributes=Provisional(last.index, (key,))
    )

    changed = repaired(
        Failure(middle.index, "it broke", raised=True), replace(proposal, constraints=constraints)
    )

    assert changed.attributes == {} and changed.rejected == {key}
    assert changed.frozen == {}
