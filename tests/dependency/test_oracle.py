"""Every rule against the oracle: what a rule claims of an operator is checked on real numbers."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice

import pytest
import torch
from oracle import Change, OpModule, changes, check
from samples import SAMPLES, Sample, from_schema

from torchthin.dependency import registry
from torchthin.dependency.labels import Axes
from torchthin.dependency.registry import Call, Rule, operators, rule_of
from torchthin.errors import ConfigError
from torchthin.graph.inputs import as_inputs
from torchthin.graph.plain_forms import PLAIN_FORMS

TWINS = {
    "aten.cudnn_batch_norm": "aten.native_batch_norm",
    "aten.miopen_batch_norm": "aten.native_batch_norm",
    "aten._fused_rms_norm": "aten.native_layer_norm",
    "aten._scaled_dot_product_flash_attention": "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_efficient_attention": "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_cudnn_attention": "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_fused_attention_overrideable": "aten._scaled_dot_product_flash_attention_for_cpu",
}
"""Operators that only run on other devices -> the operator with the same rule that is checked in their place."""

BY_OPERATOR: dict[str, list[Sample]] = defaultdict(list)
for sample in SAMPLES:
    BY_OPERATOR[sample.op].append(sample)

SCRIPT_ONLY = {"float", "complex", "int", "a", "prim_Device", "prim_dtype", "prim_other"}
"""Overloads that exist for scripts alone."""


def tags_of(name: str) -> list[list[torch.Tag]]:
    """Return the tags of every overload of an ATen operator."""
    found = getattr(torch.ops.aten, name)
    if not isinstance(found, torch._ops.OpOverloadPacket):
        return []
    return [getattr(found, overload).tags for overload in found.overloads() if overload not in SCRIPT_ONLY]


def pointwise(operator: str) -> bool:
    """Whether torch tags an operator as pointwise."""
    return any(torch.Tag.pointwise in tags for tags in tags_of(operator))


NAMES = [name for name in dir(torch.ops.aten) if not name.startswith("__")]
POINTWISE = sorted(name for name in NAMES if f"aten.{name}" not in BY_OPERATOR and pointwise(name))


def wrong(sample: Sample, ways: int | None = None) -> list[str]:
    """Return all claims about a sample that do not hold, for the first `ways` in which its arguments may come."""
    found = []
    for change in islice(changes(sample.tensors), ways):
        module = OpModule(sample.function, sample.tensors, change)
        finding = check(
            module, as_inputs(change.given(sample.tensors)), thorough=ways is None and change == Change()
        )
        found += [f"{change}: {item}" for item in finding.wrong]
        recorded = {op.name for op in finding.graph.ops}
        if change == Change() and not sample.op.startswith("composite."):
            plain = PLAIN_FORMS.keys() & {
                getattr(packet(sample.op), name) for name in packet(sample.op).overloads()
            }
            assert plain or sample.op in recorded, f"the sample of {sample.op} recorded {recorded}"
    return found


@pytest.mark.parametrize("operator", sorted(BY_OPERATOR))
def test_no_rule_is_wrong(operator: str) -> None:
    assert [problem for sample in BY_OPERATOR[operator] for problem in wrong(sample)] == []


@pytest.mark.parametrize("name", POINTWISE)
def test_no_elementwise_operator_is_wrong(name: str) -> None:
    """They share one rule, which the operators of `BY_OPERATOR` and every twentieth of these meet in all ways."""
    ways = 1 if POINTWISE.index(name) % 20 else None
    samples = list(from_schema(getattr(torch.ops.aten, name)))
    assert [problem for sample in samples for problem in wrong(sample, ways)] == []


def test_every_rule_has_a_sample() -> None:
    here = [name for name in operators() if hasattr(torch.ops.aten, name.removeprefix("aten."))]
    assert [name for name in here if name not in BY_OPERATOR and name not in TWINS] == []


@pytest.mark.parametrize("operator", sorted(name for name in TWINS if hasattr(torch.ops.aten, name[5:])))
def test_an_operator_of_another_device_shares_rule_and_argument_names(operator: str) -> None:
    entry, twin = rule_of(operator), rule_of(TWINS[operator])
    assert entry is not None and twin is not None and entry.rule is twin.rule
    names = [{argument.name for argument in packet(name).default._schema.arguments if str(argument.type) == "Tensor"}
             for name in (operator, TWINS[operator])]  # fmt: skip
    assert names[1] - names[0] <= {"bias"}  # the norm without one


def packet(operator: str) -> torch._ops.OpOverloadPacket:
    found = getattr(torch.ops.aten, operator.removeprefix("aten."))
    assert isinstance(found, torch._ops.OpOverloadPacket)
    return found


def test_missing_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Operators of torch's core set without a rule: they freeze what they meet, so none is wrong."""
    core = [name for name in NAMES if any(torch.Tag.core in tags for tags in tags_of(name))]
    missing = sorted(name for name in core if rule_of(f"aten.{name}") is None and not pointwise(name))
    with capsys.disabled():
        print(f"\nno rule, frozen when met: {', '.join(missing)}")  # noqa: T201
    assert len(missing) < len(core) / 4


def passing(call: Call) -> list[Axes]:
    """The wrong rule of tools that guess: the result has the labels of the first argument."""
    data = call.axes(next(iter(call.op.arguments)))
    return [data for _ in call.op.outputs]


def forgetting(call: Call) -> list[Axes]:
    """Ties and freezes nothing."""
    return [(None,) * len(call.out_shape(i)) for i in range(len(call.op.outputs))]


def unmarked(call: Call) -> list[Axes]:
    """A layer norm whose statistics are taken for those of the whole model."""
    call.tie(call.axes("input")[-1], call.axes("weight")[0])
    call.tie(call.axes("input")[-1], call.axes("bias")[0])
    return [call.axes("input")]


MISTAKES: list[tuple[str, Rule]] = [
    ("aten.flip", passing),
    ("aten.cumsum", passing),
    ("aten.transpose", passing),
    ("aten.add", forgetting),
    ("aten.mm", forgetting),
    ("aten.cat", forgetting),
    ("aten.native_layer_norm", unmarked),
]


@pytest.mark.parametrize(("operator", "mistake"), MISTAKES, ids=[name for name, _ in MISTAKES])
def test_the_oracle_notices_a_wrong_rule(
    operator: str, mistake: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        registry.RULES, operator, registry.Entry(mistake, accepts_flattened=False, accepts_ranked=False)
    )
    assert wrong(BY_OPERATOR[operator][0]) != []


def test_an_operator_gets_one_rule() -> None:
    with pytest.raises(ConfigError, match=r"aten\.mm has a rule already: .*contraction\.matrix_product"):
        registry.register_op("aten.mm")(passing)
