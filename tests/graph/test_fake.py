"""The law: a record without arithmetic is the record; where code looks at numbers there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchthin.graph.clone import clone, share
from torchthin.graph.fake import FAKE_RULES, DataDependent, KnownNumbers
from torchthin.graph.inputs import as_inputs
from torchthin.graph.recorder import record
from torchthin.graph.trace import trace

aten = torch.ops.aten
X = torch.randn(2, 8, 24, 24)
V = torch.rand(8) + 0.5
M = torch.randn(2, 64, 64)
CALLS = {
    aten.convolution.default: [
        (X, torch.randn(12, 4, 3, 3), torch.randn(12), [2], [1], [2], False, [0], 2),
        (X, torch.randn(8, 6, 3, 4), None, [2, 1], [1, 0], [1, 2], True, [1, 0], 2),
        (X.to(memory_format=torch.channels_last), torch.randn(4, 8, 1, 1), None, [1], [0], [1], False, [0], 1),
    ],
    aten.mm.default: [(M[0], M[1])],
    aten.addmm.default: [(M[0, 0], M[0], M[1]), (M[0], M[0], M[1])],
    aten.bmm.default: [(M, M)],
    aten.baddbmm.default: [(M[:1], M, M)],
    aten.native_batch_norm.default: [(X, V, V, V, V, False, 0.1, 1e-5), (X, None, None, V, V, False, 0.1, 1e-5)],
    aten.native_layer_norm.default: [(X, [24, 24], torch.ones(24, 24), None, 1e-5), (M, [64], M[0, 0], M[0, 0], 1e-5)],
    aten._softmax.default: [(M, -1, False)],
    aten.leaky_relu.default: [(X, 0.1)],
    aten.cat.default: [([X, X[:, :4]], 1)],
    aten.clone.default: [(X.transpose(1, 2),)],
}  # fmt: skip
PAIRS = {"add", "sub", "mul", "div"}


def arguments(op: torch._ops.OpOverload) -> list[tuple[object, ...]]:
    name = op.overloadpacket.__name__.removesuffix("_")
    return CALLS.get(op) or ([(X, X), (X, X[:, :, :1])] if name in PAIRS else [(X,)])


@pytest.mark.parametrize("op", FAKE_RULES, ids=str)
def test_every_entry_of_the_table_gives_what_torch_would_but_for_the_numbers(
    op: torch._ops.OpOverload,
) -> None:
    for given in arguments(op):
        own, torchs = ([t.clone() if isinstance(t, Tensor) else t for t in given] for _ in range(2))
        made, real = KnownNumbers().compute(op, tuple(own), {}), op(*torchs)
        assert FAKE_RULES[op](*own) is not None
        for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (made, real)), strict=True):
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
        assert (made is own[0]) == (real is torchs[0])


@pytest.mark.parametrize(
    ("op", "given"),
    [
        (aten.convolution.default, (X, torch.randn(4, 7, 3, 3), None, [1], [0], [1], False, [0], 1)),
        (aten.convolution.default, (X, torch.randn(4, 8, 30, 3), None, [1], [0], [1], False, [0], 1)),
        (aten.addmm.default, (torch.randn(5), M[0], M[1])),
        (aten.mm.default, (M[0], M[1, :5])),
        (aten.native_layer_norm.default, (M, [32], None, None, 1e-5)),
        (aten.add.Tensor, (X, X[:, :3])),
        (aten.cat.default, ([X, X[:, :, :20]], 1)),
    ],
)
def test_shapes_that_do_not_fit_raise_as_ever(op: torch._ops.OpOverload, given: tuple[object, ...]) -> None:
    with pytest.raises(RuntimeError):
        KnownNumbers().compute(op, given, {})


class Net(nn.Module):
    """A net with a line of code to try between its layers; large enough to be recorded without arithmetic."""

    def __init__(self, code: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 2**14)
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        if self.code(x):
            x = x.tanh()
        return self.fc(x.flatten(2).mean(2))


READS: list[Callable[[Tensor], object]] = [
    lambda x: x.sum().item() > 0,
    lambda x: bool((x > 0).any()),
    lambda x: x[0, 0, 0].tolist(),
    lambda x: x.numpy().any(),
    lambda x: torch.equal(x, x),
    lambda x: x.nonzero().shape[0],
    lambda x: x[x > 0].shape[0],
    lambda x: x.masked_select(x > 0).shape[0],
    lambda x: x.long().sum().shape,
    lambda x: torch.unique(x).shape[0],
]


@pytest.mark.parametrize("code", READS)
def test_code_that_looks_at_numbers_gets_them(code: Callable[[Tensor], object]) -> None:
    net, inputs = Net(code), as_inputs(X)
    with pytest.raises(DataDependent):
        record(clone(net, share), inputs, fake=True)
    graph = trace(net, inputs).graph
    assert not graph.fake
    assert [op.name for op in graph.ops] == [op.name for op in record(net, inputs).live().ops]


@pytest.mark.parametrize("code", [lambda x: False, lambda x: x.shape[0] > 1])
def test_a_record_without_arithmetic_is_the_record(code: Callable[[Tensor], object]) -> None:
    net, inputs = Net(code), as_inputs(X)
    made, real = trace(net, inputs).graph, trace(net, inputs, numbers=True).graph
    assert made.fake and not real.fake
    assert [str(op) for op in made.ops] == [str(op) for op in real.ops]
    assert [(v.shape, v.dtype, v.alias) for v in made.values] == [
        (v.shape, v.dtype, v.alias) for v in real.values
    ]
    assert (made.call_sites, made.state, made.outputs) == (real.call_sites, real.state, real.outputs)


def position(x: Tensor) -> Tensor:
    """Return relative positions, as fractions."""
    return torch.arange(x.shape[2])[:, None] * 0.5 - torch.arange(x.shape[3])[None, :] * 0.5


def written(x: Tensor) -> Tensor:
    made = torch.arange(x.shape[2]) * 0.5
    view = made[:4]
    view.copy_(x[0, 0, 0, :4])
    return made


@pytest.mark.parametrize(
    "code",
    [
        lambda x: x[0, 0][position(x).long().abs()].shape[0] > 1,
        lambda x: bool((position(x) > 3).any()),
        lambda x: position(x).max().item() > 3,
        lambda x: int((torch.arange(5000) * 0.5 + 1.0).long()[-1]) > 3,
    ],
)
def test_numbers_made_of_sizes_are_there_without_arithmetic(code: Callable[[Tensor], object]) -> None:
    net, inputs = Net(code), as_inputs(X)
    made, real = trace(net, inputs).graph, trace(net, inputs, numbers=True).graph
    assert made.fake and not real.fake
    assert [str(op) for op in made.ops] == [str(op) for op in real.ops]


@pytest.mark.parametrize(
    "code",
    [
        lambda x: (position(x) + x[0, 0]).long().shape,
        lambda x: written(x).long().shape,
        lambda x: torch.rand(3).max().item() > 0.5,
    ],
)
def test_numbers_of_anything_else_are_not(code: Callable[[Tensor], object]) -> None:
    assert not trace(Net(code), as_inputs(X)).graph.fake


def test_a_lookup_by_positions_needs_no_numbers() -> None:
    net = Net(lambda x: x[torch.tensor([0])].shape[0] > 1)
    assert trace(net, as_inputs(X)).graph.fake
