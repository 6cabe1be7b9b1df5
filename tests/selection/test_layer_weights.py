"""Wanda and SparseGPT on one layer: scores, the update of one weight, and errors against magnitude."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchthin import NM, Unstructured
from torchthin.config import Target
from torchthin.selection.layer_weights import damped_moments, sparsegpt, wanda_keep
from torchthin.selection.nm import pattern_mask


def layer(rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return a weight and the second moments of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64)
    inputs = inputs @ torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return weight, inputs.mT @ inputs / len(inputs)


def error(weight: Tensor, new: Tensor, moments: Tensor) -> float:
    return float((((weight - new) @ moments) * (weight - new)).sum())


def test_wanda_keeps_the_largest_products_of_weight_and_input_in_every_row() -> None:
    weight = torch.tensor([[3.0, 1.0, -2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    power = torch.tensor([0.01, 4.0, 1.0, 9.0])  # norms 0.1, 2, 1, 3: scores .3 2 2 3 and .1 2 1 3
    assert wanda_keep(weight, power, Unstructured(0.25)).int().tolist() == [[0, 1, 1, 1], [0, 1, 1, 1]]
    assert wanda_keep(weight, power, Unstructured(0.5)).int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert wanda_keep(weight, power, NM(1, 2)).int().tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]


@given(st.integers(1, 7), st.integers(1, 9), st.floats(0, 0.95))
def test_as_many_go_as_are_asked_for(rows: int, columns: int, share: float) -> None:
    weight, moments = layer(rows, columns, 0)
    asked = Unstructured(share)
    for keep in (wanda_keep(weight, moments.diagonal(), asked), sparsegpt(weight, moments, asked)[1]):
        assert int((~keep).sum()) == asked.units(rows * columns)


@pytest.mark.parametrize("column", [0, 3, 5])
def test_removing_one_weight_updates_the_others_by_the_formula_of_optimal_brain_surgeon(column: int) -> None:
    _, moments = layer(1, 6, 1)
    weight = torch.full((1, 6), 5.0, dtype=torch.float64)
    weight[0, column] = 1e-3  # the one to go
    new, keep = sparsegpt(weight, moments, Unstructured(0.17))
    inverse = torch.linalg.inv(damped_moments(moments))
    wanted = weight[0] - weight[0, column] / inverse[column, column] * inverse[column]
    assert keep[0].int().tolist() == [int(other != column) for other in range(6)]
    assert new[0] == pytest.approx(wanted, abs=1e-9)
    assert new[0, column] == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([Unstructured(0.5), Unstructured(0.8), NM(2, 4), NM(1, 8)]))
def test_sparsegpt_never_loses_to_magnitude_on_its_layer(seed: int, target: Target) -> None:
    weight, moments = layer(6, 16, seed)
    new, keep = sparsegpt(weight, moments, target)
    if isinstance(target, NM):
        plain = pattern_mask(weight.abs(), target.n, target.m, 1)
        assert (keep.reshape(-1, target.m).sum(1) == target.n).all()
    else:
        least = weight.abs().flatten().kthvalue(target.units(weight.numel())).values
        plain = weight.abs() > least
    assert not bool(new[~keep].any())
    damped = damped_moments(moments)
    assert error(weight, new, damped) < error(weight, weight * plain, damped)


def test_more_columns_than_a_block() -> None:
    """300 columns of which 299 have one copy each: with the copies gone nothing is lost but what the ridge costs."""
    generator = torch.Generator().manual_seed(2)
    half = torch.randn(2000, 150, generator=generator, dtype=torch.float64)
    inputs = torch.cat([half, half], 1)
    moments = inputs.mT @ inputs / len(inputs)
    weight = torch.randn(3, 300, generator=generator, dtype=torch.float64)
    new, keep = sparsegpt(weight, moments, Unstructured(0.5))
    power = error(weight, torch.zeros_like(weight), moments)
    assert int(keep.sum()) == 450
    assert error(weight, new, moments) < 0.2 * power
    assert error(weight, new, moments) < 0.5 * error(weight, weight * keep, moments)


def test_inputs_that_are_always_zero() -> None:
    weight = torch.ones(2, 4, dtype=torch.float64)
    new, keep = sparsegpt(weight, torch.zeros(4, 4), Unstructured(0.5))
    assert bool(new.isfinite().all())
    assert int(keep.sum()) == 4
