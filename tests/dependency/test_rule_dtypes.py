"""Rules in bfloat16 and float16: an operator on narrow tensors is recorded as on wide ones, so every rule says the same."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from oracle import OpModule, changes
from samples import SAMPLES, Sample
from torch import Tensor

from torchthin.dependency.propagate import propagate
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace

BY_OPERATOR: dict[str, list[Sample]] = defaultdict(list)
for sample in SAMPLES:
    BY_OPERATOR[sample.op].append(sample)


def found(sample: Sample, dtype: torch.dtype) -> list[object]:
    """Return the record of a sample's call and what rules say of it, without numbers."""
    tensors: tuple[Tensor, ...] = tuple(t.to(dtype) if t.is_floating_point() else t for t in sample.tensors)
    change = next(iter(changes(tensors)))
    graph = trace(OpModule(sample.function, tensors, change), as_inputs(change.given(tensors))).graph
    labels = propagate(graph)
    state = {
        name: [None if axis is None else repr(axis) for axis in axes] for name, axes in labels.state.items()
    }
    ops = [(op.name, op.reads, [graph.values[number].shape for number in op.results]) for op in graph.ops]
    return [ops, state, sorted(labels.statistics)]


OWN_TYPE = {"aten.eye"}
"""The sample multiplies with a float64 tensor that it makes."""


@pytest.mark.parametrize("operator", sorted(BY_OPERATOR.keys() - OWN_TYPE))
def test_a_rule_says_the_same_in_every_dtype(operator: str) -> None:
    for sample in BY_OPERATOR[operator]:
        wide = found(sample, torch.float32)
        assert all(found(sample, dtype) == wide for dtype in (torch.bfloat16, torch.float16))
