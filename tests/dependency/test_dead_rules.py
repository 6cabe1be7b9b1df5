"""What rules say of removed channels, against the oracle: nothing is claimed that other numbers or sizes would refute."""

from __future__ import annotations

import pytest
import torch
from dead_oracle import overstated
from samples import from_schema
from test_oracle import BY_OPERATOR, POINTWISE

from torchthin.dependency import emission
from torchthin.dependency.emission import DeadCall, DeadRule, Emissions
from torchthin.dependency.registry import operators, rule_of

CLAIMING = sorted(
    name for name in operators() if name in BY_OPERATOR and rule_of(name).dead is not emission.live
)  # type: ignore[union-attr]


@pytest.mark.parametrize("operator", CLAIMING)
def test_no_rule_claims_too_much(operator: str) -> None:
    assert [problem for sample in BY_OPERATOR[operator] for problem in overstated(sample, operator)] == []


@pytest.mark.parametrize("name", POINTWISE)
def test_no_pointwise_operator_claims_too_much(name: str) -> None:
    samples = from_schema(getattr(torch.ops.aten, name))
    assert [problem for sample in samples for problem in overstated(sample)] == []


def first_operand(call: DeadCall) -> Emissions:
    """The wrong rule of who thinks of one operand only."""
    return call.operands()[0][0]


MISTAKES: list[tuple[str, DeadRule]] = [
    ("aten.sum", emission.moved),
    ("aten._softmax", emission.moved),
    ("aten.add", first_operand),
    ("aten.mul", first_operand),
    ("aten.cat", emission.moved),
    ("aten.cumsum", emission.moved),
    ("aten.mm", emission.moved),
    ("aten.convolution", emission.moved),
    ("aten.constant_pad_nd", emission.moved),
    ("aten.native_layer_norm", first_operand),
    ("aten.native_batch_norm", first_operand),
    ("aten.index_put", emission.moved),
    ("aten.masked_fill", emission.moved),
    ("aten.scatter", first_operand),
    ("aten.exp", emission.moved),
    ("aten.view", emission.moved),
    ("aten.pixel_shuffle", emission.moved),
    ("aten.embedding", emission.summed),
]


@pytest.mark.parametrize(("operator", "mistake"), MISTAKES, ids=[name for name, _ in MISTAKES])
def test_the_oracle_notices_a_rule_that_claims_too_much(operator: str, mistake: DeadRule) -> None:
    samples = BY_OPERATOR[operator] or list(from_schema(getattr(torch.ops.aten, operator[5:])))
    assert [problem for sample in samples for problem in overstated(sample, operator, mistake)] != []
