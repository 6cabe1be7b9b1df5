"""The distance of outputs: one definition, the same over batches as over all inputs at once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.evaluation.distance import DenseOutputs, output_distance
from torchthin.evaluation.evaluator import Evaluator
from torchthin.graph.inputs import as_inputs

A, B = (torch.randn(12, 3, generator=torch.Generator().manual_seed(n)) for n in (0, 1))


def of_batches(dense: Tensor, other: Tensor, size: int) -> float:
    return DenseOutputs.of([part] for part in dense.split(size)).distance(
        [part] for part in other.split(size)
    )


@pytest.mark.parametrize("size", [1, 5, 12])
def test_it_is_the_error_in_units_of_the_variance_over_the_inputs(size: int) -> None:
    by_hand = (A - B).square().mean() / (A - A.mean(0)).square().mean()
    assert float(output_distance(A, B)) == pytest.approx(float(by_hand))
    assert of_batches(A, B, size) == pytest.approx(float(by_hand))
    assert of_batches(A, A, size) == 0
    assert of_batches(A, A.mean(0).expand_as(A), size) == pytest.approx(1)
    assert of_batches(1e3 * A + 5, 1e3 * B + 5, size) == pytest.approx(float(by_hand), rel=1e-4)


def test_an_output_that_does_not_vary_is_measured_in_its_size() -> None:
    constant = torch.full((12, 3), 2.0)
    assert of_batches(constant, 3 * constant, 5) == pytest.approx(4)
    rounded = constant + 1e-7 * A  # varies by rounding only
    assert of_batches(rounded, constant, 5) < 1e-12
    zero = torch.zeros(12, 3)
    assert of_batches(zero, zero + 0.5, 5) == pytest.approx(0.25)
    assert (
        of_batches(A[:1], B[:1], 5)
        == pytest.approx(  # one input: the variance of its entries
            float((A[:1] - B[:1]).square().mean() / A[:1].var(correction=0))
        )
    )


def test_it_is_the_mean_over_floating_outputs_of_one_shape() -> None:
    count, cache = torch.arange(12), torch.ones(12, 4)
    dense = {"scores": A, "count": count, "more": [B, cache]}
    other = {"scores": B, "count": count + 1, "more": [B, cache[:, :2]]}
    assert float(output_distance(dense, other)) == pytest.approx(float(output_distance(A, B)) / 2)
    assert DenseOutputs.of([[A, B, cache]]).distance([[B, B, cache[:, :2]]]) == pytest.approx(
        float(output_distance(A, B)) / 2
    )
    with pytest.raises(InputError, match="cannot be compared"):
        output_distance(A, A[:, :2])
    with pytest.raises(InputError, match="cannot be compared"):
        of_batches(A, A[:, :2], 12)


def test_halves_neither_vanish_nor_overflow() -> None:
    for scale in (1e-4, 1e4):
        a, b = (scale * A).half(), (scale * B).half()
        assert float(output_distance(a, b)) == pytest.approx(float(output_distance(A, B)), rel=0.05)


class Returns(nn.Module):
    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.weight * x)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x.long(), "cannot be compared"),
        (lambda x: x / 0, "not finite"),
        (lambda x: x[:, 7], "does not run on the data: IndexError"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change: Callable[[Tensor], Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Evaluator(Returns(change), [as_inputs(A)])
