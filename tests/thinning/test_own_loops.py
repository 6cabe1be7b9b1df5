"""Recurrent loops that a model's own code holds: states go with what reads and writes them, however many steps an example has."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from nets.laws import masked_net
from torch import Tensor, nn

import torchthin

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
STARTS = ("zeros", "zeros like", "learned", "none")


def steps(count: int, seed: int = 0) -> Tensor:
    return torch.randn(2, count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Loop(nn.Module):
    """A hand-written cell that runs over the second axis (`first`: the first one)."""

    def __init__(self, kind: str, start: str, first: bool = False) -> None:
        super().__init__()
        self.kind, self.start, self.hidden, self.first = kind, start, 8, first
        self.wx = nn.Linear(6, 8 * GATES[kind])
        self.wh = nn.Linear(8, 8 * GATES[kind], bias=False)
        self.out = nn.Linear(8, 3)
        self.h0 = nn.Parameter(torch.randn(8)) if start == "learned" else None

    def state(self, x: Tensor) -> Tensor | None:
        if self.start == "zeros":
            return x.new_zeros(x.shape[0], self.hidden)
        if self.start == "zeros like":
            return torch.zeros_like(self.wx(x[:, 0])[:, : self.hidden])
        return None if self.h0 is None else self.h0.expand(x.shape[0], -1)

    def step(self, x: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, Tensor]:
        read = self.wx(x)
        if self.kind == "rnn":
            h = torch.tanh(read if h is None else read + self.wh(h))
            return h, h
        if self.kind == "lstm":
            i, f, new, o = (read if h is None else read + self.wh(h)).chunk(4, -1)
            c = i.sigmoid() * new.tanh() + (0 if c is None else f.sigmoid() * c)
            return o.sigmoid() * c.tanh(), c
        reset, keep, new = read.chunk(3, -1)
        if h is None:
            h = (1 - keep.sigmoid()) * new.tanh()
        else:
            a, b, own = self.wh(h).chunk(3, -1)
            keep = (keep + b).sigmoid()
            h = (1 - keep) * (new + (reset + a).sigmoid() * own).tanh() + keep * h
        return h, h

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.first else x
        made, h = [], self.state(x)
        c = h
        for t in range(x.shape[1]):
            h, c = self.step(x[:, t], h, c)
            made.append(self.out(h))
        found = torch.stack(made, 1)
        return found.transpose(0, 1) if self.first else found


def loop(kind: str, start: str, first: bool = False) -> Loop:
    torch.manual_seed(0)
    return Loop(kind, start, first).double().eval()


def check_half_of_the_states_go(model: nn.Module, example: Tensor, *others: Tensor) -> Any:
    """The states are halved, and the smaller model computes what the masked one does on every input."""
    result = torchthin.prune(model, example, include=["*"])
    assert result.proof is not None
    assert result.proof.exact
    assert result.model.wh.weight.shape == (model.wh.weight.shape[0] // 2, 4)
    masked = masked_net(copy.deepcopy(model), result.masks)
    for x in (example, *others):
        torch.testing.assert_close(result.model(x), masked(x), rtol=1e-9, atol=1e-9)
    return result


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", GATES)
def test_half_of_the_states_go_whatever_they_start_from(kind: str, start: str) -> None:
    check_half_of_the_states_go(loop(kind, start), steps(3), steps(1, 1), steps(5, 2))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", GATES)
def test_an_example_of_one_step_is_made_longer(kind: str, start: str) -> None:
    """One step does not show that the loop reads what it has made."""
    result = check_half_of_the_states_go(loop(kind, start), steps(1), steps(2, 1), steps(5, 2))
    note = next(note for note in result.report.notes if "shows too little" in note)
    assert "(2x1x6)" in note
    assert "(2x3x6)" in note


def test_one_step_along_the_first_axis_counts_too() -> None:
    inputs = [steps(count, count).transpose(0, 1) for count in (1, 2, 5)]
    check_half_of_the_states_go(loop("gru", "zeros", first=True), *inputs)


@pytest.mark.parametrize("start", STARTS)
def test_a_budget_of_parameters_is_reached_from_one_step_too(start: str) -> None:
    result = torchthin.prune(loop("rnn", start), steps(1), torchthin.Budget(params="0.6x"), include=["*"])
    assert result.proof is not None
    assert result.proof.exact
    assert result.model.wh.weight.shape[1] < 8
