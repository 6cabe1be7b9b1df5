"""What rules say of removed channels, against the oracle: nothing is claimed that other numbers or sizes would refute."""

from __future__ import annotations

import pytest
import torch
from dead_oracle import overstated
from samples import from_schema
from test_oracle import BY_OPERATOR, POINTWISE

from torchthin.dependency import dead_rules
from torchthin.dependency.dead_rules import DeadCall, DeadRule, Emissions
from torchthin.dependency.registry import operators, rule_of

CLAIMING = sorted(
    name for name in operators() if name in BY_OPERATOR and rule_of(name).dead is not dead_rules.live
)  # type: ignore[union-attr]


@pytest.mark.parametrize("operator", CLAIMING)
def test_no_rule_claims_too_much(operator: str) -> None:
    assert [problem for sample in BY_OPERATOR[operator] for problem in overstated(sample, operator)] == []


@pytest.mark.parametrize("name", POINTWISE)
def test_no_pointwise_operator_claims_too_much(name: str) -> None:
    """All overloads have one rule, which counts operands: one of each number of tensors is enough."""
    samples = {len(sample.tensors): sample for sample in from_schema(getattr(torch.ops.aten, name))}
    assert [problem for sample in samples.values() for problem in overstated(sample)] == []


def first_operand(call: DeadCall) -> Emissions:
    """The wrong rule of who thinks of one operand only."""
    return call.operands()[0][0]


MISTAKES: list[tuple[str, DeadRule]] = [
    ("aten.sum", dead_rules.moved),
    ("aten._softmax", dead_rules.moved),
    ("aten.add", first_operand),
    ("aten.mul", first_operand),
    ("aten.cat", dead_rules.moved),
    ("aten.cumsum", dead_rules.moved),
    ("aten.mm", dead_rules.moved),
    ("aten.convolution", dead_rules.moved),
    ("aten.constant_pad_nd", dead_rules.moved),
    ("aten.native_layer_norm", first_operand),
    ("aten.native_batch_norm", first_operand),
    ("aten.index_put", dead_rules.moved),
    ("aten.masked_fill", dead_rules.moved),
    ("aten.scatter", first_operand),
    ("aten.exp", dead_rules.moved),
    ("aten.view", dead_rules.moved),
    ("aten.pixel_shuffle", dead_rules.moved),
    ("aten.embedding", dead_rules.summed),
]


@pytest.mark.parametrize(("operator", "mistake"), MISTAKES, ids=[name for name, _ in MISTAKES])
def test_the_oracle_notices_a_rule_that_claims_too_much(operator: str, mistake: DeadRule) -> None:
    samples = BY_OPERATOR[operator] or list(from_schema(getattr(torch.ops.aten, operator[5:])))
    assert any(overstated(sample, operator, mistake) for sample in samples)
