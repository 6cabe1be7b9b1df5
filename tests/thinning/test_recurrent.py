"""Hidden states of recurrent layers go with their biases, and what is left computes what the masked layer did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.errors import TargetMissedError, WeightNameError

STEPS = 5


def steps(seed: int = 0, count: int = STEPS) -> Tensor:
    return torch.randn(2, count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Reader(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.r = layer
        self.b = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if not isinstance(self.r, nn.RNNCellBase):
            return self.b(self.r(x)[0])
        state = None
        for step in x.unbind(1):
            state = self.r(step, state)
        return self.b(state[0] if isinstance(state, tuple) else state)


Make = Callable[[], nn.Module]
LAYERS: dict[str, tuple[Make, int]] = {
    "LSTM": (lambda: nn.LSTM(8, 8, batch_first=True), 8),
    "GRU": (lambda: nn.GRU(8, 8, batch_first=True), 8),
    "RNN": (lambda: nn.RNN(8, 8, batch_first=True), 8),
    "GRU, two layers, both ways": (lambda: nn.GRU(8, 8, 2, batch_first=True, bidirectional=True), 16),
    "LSTM, projected": (lambda: nn.LSTM(8, 12, 2, proj_size=8, batch_first=True, bidirectional=True), 16),
    "LSTMCell": (lambda: nn.LSTMCell(8, 8), 8),
    "GRUCell": (lambda: nn.GRUCell(8, 8), 8),
    "RNNCell": (lambda: nn.RNNCell(8, 8), 8),
}


def reader(name: str) -> Reader:
    torch.manual_seed(0)
    make, width = LAYERS[name]
    return Reader(make(), width).double().eval()


@pytest.mark.parametrize("count", [1, STEPS])
@pytest.mark.parametrize("name", LAYERS)
def test_half_of_the_states_go_exactly(name: str, count: int) -> None:
    """Also where the example has one step, which does not show that a state is read again."""
    model, example = reader(name), steps(count=count)
    result = torchthin.prune(model, example, include=["*"], criterion="random")
    assert result.proof is not None
    assert result.proof.holds
    assert result.report.thinned.inexact == ()
    layer = result.model.r
    assert layer.hidden_size == model.r.hidden_size // 2
    assert layer.input_size == 4
    assert getattr(layer, "proj_size", 0) == getattr(model.r, "proj_size", 0) // 2
    masked = torchthin.prune(model, example, include=["*"], criterion="random", thin=False)
    assert {key: mask.tolist() for key, mask in masked.masks.items()} == {
        key: mask.tolist() for key, mask in result.masks.items()
    }
    torch.testing.assert_close(result.model(steps(3)), masked.model(steps(3)), rtol=1e-9, atol=1e-9)
    result.model.train()(steps()).sum().backward()
    assert all(p.grad is not None for p in result.model.parameters())
    assert any("shows too little" in note for note in result.report.notes) == (count == 1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTM, projected"])
def test_dead_states_go_only_where_no_bias_moves_them(name: str, bias: bool) -> None:
    for count in (1, STEPS):
        model = reader(name)
        with torch.no_grad():  # `bias`: of the biases, too
            for key, tensor in model.r.named_parameters():
                gates = 1 if "weight_hr" in key else model.r.weight_hh_l0.shape[0] // model.r.hidden_size
                if bias or key.startswith("weight"):
                    tensor.view(gates, -1, *tensor.shape[1:])[:, 1] = 0
        expected = model(steps(3))
        try:
            torchthin.thin_(model, steps(count=count))
        except TargetMissedError:
            assert not bias
        torch.testing.assert_close(model(steps(3)), expected)


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_masked_states_stay_at_zero(name: str) -> None:
    result = torchthin.prune(reader(name), steps(), include=["*"], thin=False)
    biases = {key for key in result.masks if "bias" in key}
    assert biases == {key for key, _ in result.model.named_parameters() if key.startswith("r.bias")}
    assert any("biases of removed hidden states" in note for note in result.report.notes)
    assert not any("bias" in layer.name for layer in result.report.layers)
    out = result.model.r(result.model.a(steps(1)) if name == "LSTM" else torch.ones(2, 8).double())
    states = out[0][:, -1] if name == "LSTM" else out
    assert int((states == 0).all(0).sum()) == 4


@pytest.mark.parametrize("names", [["r.weight_hh_l0"], ["r.*"]])
def test_states_may_be_named_when_the_graph_is_known(names: list[str]) -> None:
    model = reader("LSTM")
    small = torchthin.prune(model, steps(), include=names).model
    assert small.r.hidden_size == 4
    assert small.a.out_features == 8
    with pytest.raises(WeightNameError):
        torchthin.prune(model, include=names, thin=False)
