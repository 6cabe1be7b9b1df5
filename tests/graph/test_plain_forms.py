"""Operators of other devices and of exporters are recorded in the form that the CPU runs, and compute the same there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.graph.inputs import as_inputs
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.plain_forms import PLAIN_FORMS
from torchthin.graph.trace import trace

A = torch.ops.aten


class Normed(nn.Module):
    """A convolution, a batch norm by one of torch's operators, and a convolution."""

    def __init__(self, norm: Callable[[Tensor, nn.BatchNorm2d], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.bn, self.norm = nn.BatchNorm2d(8), norm
        for tensor in (self.bn.weight, self.bn.bias, self.bn.running_mean, self.bn.running_var):
            assert tensor is not None
            nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.two(self.norm(self.one(x), self.bn).relu())
        return made


def stats(bn: nn.BatchNorm2d) -> tuple[Tensor | None, ...]:
    return bn.weight, bn.bias, bn.running_mean, bn.running_var


NORMS: dict[str, Callable[[Tensor, nn.BatchNorm2d], Tensor]] = {
    "_native_batch_norm_legit_no_training": lambda x, bn: A._native_batch_norm_legit_no_training(
        x, *stats(bn), 0.1, 1e-5
    )[0],
    "_native_batch_norm_legit": lambda x, bn: A._native_batch_norm_legit(x, *stats(bn), False, 0.1, 1e-5)[0],
    "_batch_norm_no_update": lambda x, bn: A._batch_norm_no_update(x, *stats(bn), 0.1, 1e-5)[0],
    "cudnn_batch_norm": lambda x, bn: A.cudnn_batch_norm(x, *stats(bn), False, 0.1, 1e-5)[0],
    "miopen_batch_norm": lambda x, bn: A.miopen_batch_norm(x, *stats(bn), False, 0.1, 1e-5)[0],
}
HERE = [name for name in NORMS if hasattr(A, name)]
ON_CPU = [name for name in HERE if not name.startswith(("cudnn", "miopen"))]
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def names(model: nn.Module, *given: Tensor) -> list[str]:
    return [op.name for op in trace(model, as_inputs(given)).graph.ops]


@pytest.mark.parametrize("name", HERE)
def test_a_norm_is_recorded_as_the_cpu_runs_it(name: str) -> None:
    plain = Normed(lambda x, bn: bn(x))
    assert names(Normed(NORMS[name]), IMAGES) == names(plain, IMAGES)


@pytest.mark.parametrize("name", HERE)
def test_a_norm_computes_the_same_in_its_plain_form(name: str) -> None:
    model = Normed(NORMS[name]).eval()
    wanted = Normed(lambda x, bn: bn(x)).eval()(IMAGES)
    assert torch.allclose(run(model, as_inputs(IMAGES), CountingMode()), wanted, atol=1e-6)


@pytest.mark.parametrize("name", ON_CPU)
def test_a_model_with_such_a_norm_is_thinned_exactly(name: str) -> None:
    result = torchthin.prune(Normed(NORMS[name]), IMAGES, 0.5)
    assert result.proof is not None and result.proof.exact
    assert result.model.get_parameter("one.weight").shape[0] == 4
    with torch.no_grad():
        assert result.model.eval()(IMAGES).shape == (2, 4, 6, 6)


class FusedCell(nn.Module):
    """What torch runs on a GPU for a cell: products without biases, then one operator."""

    def __init__(self, cell: nn.LSTMCell | nn.GRUCell) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(cell.hidden_size, 2)

    def forward(self, x: Tensor, *state: Tensor) -> Tensor:
        cell = self.cell
        gates = x @ cell.weight_ih.t(), state[0] @ cell.weight_hh.t()
        fused = A._thnn_fused_lstm_cell if isinstance(cell, nn.LSTMCell) else A._thnn_fused_gru_cell
        made: Tensor = self.head(fused(*gates, state[-1], cell.bias_ih, cell.bias_hh)[0])
        return made


@pytest.mark.parametrize("cell", [nn.LSTMCell(5, 6), nn.GRUCell(5, 6)], ids=["lstm", "gru"])
def test_a_fused_cell_computes_the_same_and_is_recorded_in_parts(cell: nn.LSTMCell | nn.GRUCell) -> None:
    model = FusedCell(cell)
    x, states = (
        torch.randn(3, 5),
        [torch.randn(3, 6) for _ in range(2 if isinstance(cell, nn.LSTMCell) else 1)],
    )
    inputs = as_inputs((x, *states))
    after = cell(x, tuple(states))[0] if isinstance(cell, nn.LSTMCell) else cell(x, states[0])
    assert torch.allclose(run(model, inputs, CountingMode()), model.head(after), atol=1e-6)
    recorded = names(model, x, *states)
    assert not any("fused" in name for name in recorded)
    assert recorded.count("aten.sigmoid") == (3 if isinstance(cell, nn.LSTMCell) else 2)


def test_a_norm_that_changes_its_statistics_stays_what_it_is() -> None:
    """The schema of the plain operator does not say that it writes them."""
    bn = nn.BatchNorm2d(3)
    form = PLAIN_FORMS[A._native_batch_norm_legit.default]
    assert form(IMAGES, *stats(bn), True, 0.1, 1e-5) is None
    assert bn.running_mean is not None and not bn.running_mean.any()
