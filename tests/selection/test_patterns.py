"""N:M masks: n of every m neighbours along the input dimension stay, exactly."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torchthin
from torchthin.errors import ConfigError, InputError
from torchthin.selection.nm import pattern_mask


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 4), st.integers(0, 2), st.integers(0, 99))
def test_the_highest_n_of_every_m_stay(n: int, more: int, blocks: int, axis: int, seed: int) -> None:
    m = n + more
    shape = [3, 3, 3]
    shape[axis] = blocks * m
    scores = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed)).float()  # many ties
    mask = pattern_mask(scores, n, m, axis)
    for i, j in product(range(3), range(3)):
        line, kept = (x.movedim(axis, -1)[i, j] for x in (scores, mask))
        for start in range(0, blocks * m, m):
            values = line[start : start + m].tolist()
            removed = sorted(range(m), key=lambda k, values=values: (values[k], k))[:more]
            assert [k for k in range(m) if not kept[start + k]] == sorted(removed)


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.ConvTranspose2d(12, 5, 2),
        nn.Flatten(),
        nn.Linear(20, 6),
    )


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 4)])
def test_every_layer_that_divides_has_the_pattern(n: int, m: int) -> None:
    net = _net()
    result = torchthin.prune(net, None, torchthin.NM(n, m))
    assert list(result.masks) == ["2.weight", "3.weight", "5.weight"]
    for name, axis in (("2.weight", 1), ("3.weight", 0), ("5.weight", 1)):
        mask = result.masks[name].movedim(axis, -1)
        assert (mask.unflatten(-1, (-1, m)).sum(-1) == n).all()
        weight = net.get_parameter(name).detach().abs().movedim(axis, -1).unflatten(-1, (-1, m))
        kept = mask.unflatten(-1, (-1, m))
        assert (weight.masked_fill(~kept, 9).amin(-1) >= weight.masked_fill(kept, 0).amax(-1)).all()
    assert result.report.total.weight_sparsity == pytest.approx(1 - n / m)
    assert result.report.target_reached
    assert any(
        note == f"0.weight is not pruned: its 3 inputs are no multiple of {m}."
        for note in result.report.notes
    )
    assert torch.equal(result.model.get_parameter("0.weight"), net.get_parameter("0.weight"))


def test_counts_are_exact_where_the_share_is_no_binary_fraction() -> None:
    for n, m in product(range(1, 8), (3, 5, 6, 7, 11)):
        if n < m:
            result = torchthin.prune(nn.Linear(7 * m, 9), None, torchthin.NM(n, m))
            assert result.report.total.asked == result.report.total.zeroed_weights == 9 * 7 * (m - n)


def test_nothing_that_divides_is_refused() -> None:
    with pytest.raises(InputError, match="no weight whose inputs are a multiple of 16"):
        torchthin.prune(_net(), None, torchthin.NM(2, 16), include=["0.weight", "2.weight"], thin=False)


def test_masks_that_grow_know_no_pattern() -> None:
    with pytest.raises(ConfigError, match=r"must be a Ratio or Unstructured, whose masks can grow\. Got NM"):
        torchthin.Pruner(_net(), None, torchthin.NM())
