"""Which parameter a value comes from, asked of small nets whose code says it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from torchthin.graph.inputs import as_inputs
from torchthin.graph.operators import CONTRACTIONS
from torchthin.graph.opgraph import OpGraph
from torchthin.graph.provenance import made_from, origin, sources
from torchthin.graph.trace import trace

X = torch.randn(2, 6)
NORMED = "normed.parametrizations.weight.original1"


class Net(nn.Module):
    """One product with a weight that `code` makes from the net's tensors."""

    def __init__(self, code: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.other = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4, 6))
        self.left, self.right = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 6))
        self.gain = nn.Parameter(torch.ones(()))
        self.register_buffer("mask", torch.ones(4, 6))
        self.normed = weight_norm(nn.Linear(6, 4))
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.code(self, x).t()


def weight_value(net: nn.Module) -> tuple[OpGraph, int]:
    """Return the record and the value that its product takes for a weight."""
    graph = trace(net, as_inputs(X)).graph
    op = [op for op in graph.ops if op.name == "aten.mm"][-1]
    value = op.value(CONTRACTIONS[op.name].weight)
    assert value is not None
    return graph, value


CASES: dict[str, tuple[Callable[[Net, Tensor], Tensor], str | None, str | None]] = {
    "as it is": (lambda net, x: net.weight, "weight", "weight"),
    "scaled": (lambda net, x: net.weight * net.gain / 2, "weight", "weight"),
    "rounded by its own size": (lambda net, x: net.weight / net.weight.abs().max(), "weight", "weight"),
    "half of it": (lambda net, x: torch.cat([net.weight, net.other])[:4], None, None),
    "masked by a buffer": (lambda net, x: net.weight * net.mask, None, None),
    "with a low-rank addend": (lambda net, x: net.weight + net.left @ net.right, None, "weight"),
    "of two": (lambda net, x: net.weight + net.other, None, None),
    "of the input": (lambda net, x: net.weight * x.mean(0), "weight", None),
    "normed": (lambda net, x: net.normed.weight, NORMED, NORMED),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_parameter_of_a_weight(case: str) -> None:
    code, moved, made = CASES[case]
    net = Net(code)
    graph, value = weight_value(net)
    found = origin(graph, value)
    assert (found and found.name) == moved
    assert made_from(graph, value, dict(net.named_parameters())) == made
    if found is not None:
        steps = [graph.state[found.name], *(step for _, step in found.path)]
        assert steps[-1] == value
        assert all(before in op.reads for before, (op, _) in zip(steps, found.path, strict=False))


def test_sources_are_what_no_op_made() -> None:
    graph, value = weight_value(Net(lambda net, x: net.weight * net.gain + net.mask))
    assert {graph.names[number] for number in sources(graph, value)} == {"weight", "gain", "mask"}
    graph, value = weight_value(Net(lambda net, x: net.weight * x.mean(0)))
    assert sources(graph, value) & set(graph.inputs)


def test_a_tensor_that_is_changed_in_place_has_no_end() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            counts = torch.zeros(6)
            counts.add_(1)
            return x * counts

    graph = trace(Counting(), as_inputs(X)).graph
    (product,) = (op for op in graph.ops if op.name == "aten.mul")
    assert origin(graph, product.reads[1]) is None
