"""Rules in bfloat16 and float16, and on a GPU: a record is that of wide tensors on the CPU, so every rule says the same."""

from __future__ import annotations

import pytest
import torch
from oracle import OpModule, changes
from samples import Sample, from_schema
from test_oracle import BY_OPERATOR, POINTWISE
from torch import Tensor

from torchthin.dependency.propagate import propagate
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace


def found(sample: Sample, dtype: torch.dtype, device: str = "cpu") -> list[object]:
    """Return the record of a sample's call and what rules say of it, without numbers."""
    tensors: tuple[Tensor, ...] = tuple(
        t.to(device, dtype if t.is_floating_point() else t.dtype) for t in sample.tensors
    )
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
MAKE_ON_THE_CPU = {
    *("aten." + name for name in (
        "zeros", "ones", "empty", "full", "arange", "linspace", "logspace", "empty_strided", "empty_permuted", "rand", "randn",
        "randint", "randperm", "tril_indices", "triu_indices", "hann_window", "hamming_window", "blackman_window",
        "kaiser_window", "bartlett_window", "fft_fftfreq", "fft_rfftfreq", "cat", "_fused_moving_avg_obs_fq_helper",
        "_scaled_dot_product_flash_attention_for_cpu",
    )),
}  # fmt: skip
"""Samples that make a tensor where they are told nothing else, or call what only the CPU has."""


def check(sample: Sample, device: str) -> None:
    wide = found(sample, torch.float32)
    dtypes = (torch.float32, torch.bfloat16, torch.float16)[device == "cpu" :]
    assert all(found(sample, dtype, device) == wide for dtype in dtypes)


@pytest.mark.parametrize("operator", sorted(BY_OPERATOR.keys() - OWN_TYPE))
def test_a_rule_says_the_same_in_every_dtype(operator: str, device: str) -> None:
    if device == "cpu" or operator not in MAKE_ON_THE_CPU:
        for sample in BY_OPERATOR[operator]:
            check(sample, device)


NARROW_LACKING = {"float_power_", "gelu_backward"}
"""One writes float64 alone; torch has no kernel of the other that broadcasts bfloat16."""


@pytest.mark.parametrize("name", sorted(set(POINTWISE) - NARROW_LACKING))
def test_an_elementwise_operator_is_the_same_in_every_dtype(name: str, device: str) -> None:
    for sample in from_schema(getattr(torch.ops.aten, name)):
        check(sample, device)
