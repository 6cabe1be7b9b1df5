"""Results and states are told apart by the parameters of forward, and a next call gets copies of the states."""

from collections import namedtuple
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.inputs import as_inputs
from torchthin.graph.next_call import next_inputs, returned, with_states


class Memory:
    def __init__(self) -> None:
        self.held = torch.ones(2, 3)


class Model(nn.Module):
    def forward(
        self, x: Tensor, mask: Tensor | None = None, past: Any = None, memory: Memory | None = None
    ) -> Any:
        return x


X = torch.randn(2, 3)
PAST = (torch.ones(2), torch.zeros(2))
Output = namedtuple("Output", ["y", "past"])


def _states(outputs: Any, given: Any = X) -> list[str]:
    return list(returned(Model(), as_inputs(given), outputs).states)


def test_a_container_under_the_name_of_an_optional_parameter_is_a_state() -> None:
    assert _states({"y": X, "past": PAST}) == ["past"]
    assert _states(Output(X, PAST)) == ["past"]
    assert _states({"y": X, "past": Memory()}) == ["past"]


def test_what_the_example_gives_is_a_result() -> None:
    assert _states({"y": X, "past": PAST}, {"x": X, "past": PAST}) == []
    assert _states({"y": X, "past": PAST}, {"x": X, "past": None}) == ["past"]


def test_tensors_and_other_names_are_results() -> None:
    assert _states({"y": X, "past": X, "attentions": PAST}) == []
    assert _states({"y": X, "x": PAST}) == []


def test_in_a_tuple_the_class_tells() -> None:
    parts = returned(Model(), as_inputs(X), (X, PAST, Memory()))
    assert list(parts.states) == ["memory"]
    assert len(parts.results) == 2


def test_a_model_that_returns_states_alone_has_results() -> None:
    assert _states({"past": PAST}) == []


def test_a_next_call_takes_one_step_and_a_longer_mask() -> None:
    given = {"ids": torch.tensor([[5, 6, 7]]), "mask": torch.ones(1, 3, dtype=torch.long)}
    (longer, whole), (short, _), (same, twice) = next_inputs(as_inputs(given))
    assert [tuple(t.shape) for t in longer.tensors()] == [(1, 1), (1, 4)]
    assert [tuple(t.shape) for t in short.tensors()] == [(1, 1), (1, 1)]
    assert [tuple(t.shape) for t in same.tensors()] == [(1, 3), (1, 3)]
    assert [tuple(t.shape) for t in whole.tensors()] == [(1, 4), (1, 4)]
    assert [tuple(t.shape) for t in twice.tensors()] == [(1, 6), (1, 6)]


def test_a_call_may_change_the_states_that_it_is_given() -> None:
    memory = Memory()
    taken = dict(with_states(as_inputs(X), {"memory": memory}).kwargs or {})
    taken["memory"].held.zero_()
    assert bool(memory.held.all())
