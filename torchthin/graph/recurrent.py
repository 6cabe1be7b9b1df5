"""The hidden states of torch's recurrent layers: what they are tied to by what the layer is, however long an example is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from torchthin.graph.clone import modules_of, state_tensors

_GATES = {"RNN": (1, 0), "GRU": (3, 2), "LSTM": (4, 2)}
"""Kind -> number of blocks of rows in a weight, and the block that makes new values of a state."""
_KINDS = (
    (nn.RNN, "RNN"), (nn.RNNCell, "RNN"), (nn.GRU, "GRU"), (nn.GRUCell, "GRU"),
    (nn.LSTM, "LSTM"), (nn.LSTMCell, "LSTM"),
)  # fmt: skip


@dataclass(frozen=True)
class RecurrentState:
    """The hidden state of one direction of one layer, by the names of the tensors that read and write it."""

    weight: str
    """Its rows make the state of the next step, gate by gate; its columns read that of the last one."""
    projection: str | None
    """What makes the state of an LSTM with ``proj_size`` from its cell."""
    biases: tuple[str, ...]
    gates: int
    source: int
    """The gate without which the state stays at zero."""


def recurrent_states(model: nn.Module) -> tuple[RecurrentState, ...]:
    """Return the states of all recurrent layers and cells of torch in `model`."""
    names = {id(tensor): name for name, tensor in state_tensors(model)}
    found = []
    for _, module in modules_of(model):
        kind = next((kind for of, kind in _KINDS if isinstance(module, of)), None)
        own = {
            local: names[id(tensor)] for local, tensor in module._parameters.items() if id(tensor) in names
        }
        for local, name in own.items():
            if kind is None or not local.startswith("weight_hh"):
                continue
            suffix = local.removeprefix("weight_hh")
            biases = tuple(own[bias + suffix] for bias in ("bias_ih", "bias_hh") if bias + suffix in own)
            found.append(RecurrentState(name, own.get(f"weight_hr{suffix}"), biases, *_GATES[kind]))
    return tuple(found)
