"""Examples that show too little are recorded on better ones made of them, where the model takes those; usual ones only once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from nets import second_generator
from nets.laws import check_prune
from torch import Tensor, nn

import torchthin
from torchthin.graph import better_examples
from torchthin.graph.better_examples import trace_more
from torchthin.graph.deferred import SMALLEST
from torchthin.graph.inputs import Inputs, as_inputs
from torchthin.graph.trace import Traced


def convolutions(channels: int = 3, kernel: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 8, kernel), nn.ReLU(), nn.Conv2d(8, 4, kernel))


class Reader(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.r = nn.GRU(6, 8, **options)
        self.h = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.r(x)[0])


class Masked(nn.Module):
    """A mask of one channel is multiplied with pictures of three, so three would fit by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.body(x * mask)


def shapes(model: nn.Module, *given: Tensor) -> tuple[list[tuple[int, ...]], str]:
    """Return the shapes that are recorded, and what is said of them."""
    traced = trace_more(model.eval(), as_inputs(given))
    return [tuple(tensor.shape) for tensor in traced.inputs.tensors()], traced.graph.note


LONGER = {
    "pixel": (convolutions(), (1, 3, 1, 1), (1, 3, 2, 2)),
    "row of pixels": (convolutions(), (1, 3, 1, 5), (1, 3, 2, 5)),
    "step": (Reader(batch_first=True), (2, 1, 6), (2, 3, 6)),
    "step of one sequence": (Reader(batch_first=True), (1, 1, 6), (1, 2, 6)),
    "step along the first axis": (Reader(), (1, 2, 6), (3, 2, 6)),
}


@pytest.mark.parametrize("case", LONGER)
def test_one_entry_along_an_axis_becomes_several(case: str) -> None:
    model, before, after = LONGER[case]
    found, note = shapes(model, torch.randn(before))
    assert found == [after]
    assert "shows too little" in note


AS_GIVEN = {
    "picture": (convolutions(), [(1, 3, 8, 8)]),
    "grey picture": (convolutions(1), [(1, 1, 8, 8)]),
    "pixel that is flattened": (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8, 4)), [(1, 3, 1, 1)]
    ),
    "mask": (Masked(), [(1, 3, 8, 8), (1, 1, 8, 8)]),
    "step that is a row": (nn.Sequential(nn.Flatten(0, 1), nn.Linear(6, 4), nn.Linear(4, 2)), [(2, 1, 6)]),
}  # fmt: skip


@pytest.mark.parametrize("case", AS_GIVEN)
def test_what_the_model_does_not_take_is_recorded_as_given(case: str) -> None:
    model, given = AS_GIVEN[case]
    assert shapes(model, *map(torch.randn, given)) == (given, "")


@pytest.mark.parametrize("given", [torch.randn(1, 3, 8, 8), torch.randn(2, 3, 8, 8)])
def test_usual_examples_are_recorded_once(given: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Inputs] = []

    recorded = better_examples.trace

    def counted(model: nn.Module, inputs: Inputs) -> Traced:
        runs.append(inputs)
        return recorded(model, inputs)

    monkeypatch.setattr(better_examples, "trace", counted)
    torchthin.prune(convolutions(), given)
    assert len(runs) == 1


class Normalised(nn.Module):
    """Makes NaN of a picture of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x / x.norm())


def test_equal_values_become_random_ones() -> None:
    result = torchthin.prune(Normalised().eval(), torch.zeros(1, 3, 8, 8))
    assert result.proof is not None
    assert result.proof.exact
    assert any("equal values" in note for note in result.report.notes)


def test_tokens_of_zeros_become_zeros_and_ones() -> None:
    """Zero is the padding, of which an embedding shows nothing."""
    model = nn.Sequential(nn.Embedding(9, 6, padding_idx=0), nn.Linear(6, 4))
    given = torch.zeros(2, 5, dtype=torch.long)
    (tokens,) = trace_more(model, as_inputs(given)).inputs.tensors()
    assert tokens.unique().tolist() == [0, 1]
    assert not given.any()


def test_equal_tokens_other_than_zero_stay() -> None:
    """Any other index may be out of range."""
    model, tokens = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4)), torch.full((2, 5), 3)
    traced = trace_more(model, as_inputs(tokens))
    assert next(traced.inputs.tensors()) is tokens
    assert traced.graph.note == ""


def test_costs_are_those_of_the_example_that_was_given() -> None:
    model = convolutions().eval()
    result = torchthin.prune(model, torch.randn(1, 3, 1, 1))
    assert result.report.thinned.before.macs == 3 * 8 + 8 * 4
    explained = torchthin.plan(model, torch.randn(1, 3, 1, 1)).explain()
    assert next(line for line in explained.splitlines() if line.startswith("Note")).endswith("(1x3x2x2).")
    budget = torchthin.prune(model, torch.randn(1, 3, 1, 1), torchthin.Budget(macs=30))
    assert budget.report.thinned.after.macs <= 30


def test_the_distance_that_is_told_is_that_on_the_given_example_too() -> None:
    case = second_generator.Case(second_generator.spec(6026))  # an encoder layer, two rows of one token
    finding = check_prune(case)
    assert (finding.outcome, finding.wrong) == ("approximate", "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_that_are_made_as_they_are_read_are_there_on_the_given_example_too(
    dtype: torch.dtype,
) -> None:
    wide = 2 * math.isqrt(SMALLEST)
    net = nn.Sequential(
        nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 7)
    )
    result = torchthin.prune(net.to(dtype).eval(), torch.randn(2, 1, wide), 0.5)
    assert result.proof is not None and result.proof.exact
    assert [layer.out_features for layer in result.model if isinstance(layer, nn.Linear)] == [
        wide // 2,
        wide // 2,
        7,
    ]
