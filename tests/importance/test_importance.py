"""Importance: the criteria, their registry, and the scores of groups."""

import numpy as np
import pytest
import torch

from torchthin.dependency.groups import Group, Member, uncoupled
from torchthin.errors import ConfigError, InputError
from torchthin.importance.registry import criteria, criterion, register_criterion, row_criterion
from torchthin.importance.scores import check_values, filter_rows, group_scores

ROWS = torch.tensor([[3.0, -4.0], [0.0, 1.0]])


@pytest.mark.parametrize(("name", "scores"), [("l1", [3.5, 0.5]), ("l2", [2.5, 0.5]), ("max", [4.0, 1.0])])
def test_criteria_by_hand(name: str, scores: list[float]) -> None:
    assert row_criterion(name)(ROWS).tolist() == scores


def test_registering_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'l1' is registered already"):
        register_criterion("l1")(lambda rows: rows[:, 0])
    assert "l1" in criteria()


def test_an_unknown_criterion_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"l1, l2, max.* Got 'l11'. Did you mean 'l1'"):
        criterion("l11")


def test_rows_follow_the_logical_order_in_any_memory_format() -> None:
    weight = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(filter_rows(weight, 0), filter_rows(last, 0))
    assert filter_rows(weight, 1).shape == (3, 40)
    assert torch.equal(filter_rows(weight, 1)[2], weight[:, 2].flatten())


def test_a_group_of_one_has_distillers_scores() -> None:
    weight = torch.randn(7, 3, 3, 3)
    scores = group_scores([uncoupled("w", 0, 7)], {"w": weight}, {"w": 0})
    assert scores["w"].tolist() == (torch.norm(weight.view(7, -1), p=1, dim=1) / 27).double().tolist()


def test_scores_sum_over_the_filters_of_targets_only() -> None:
    a, b, bias = torch.ones(2, 3), torch.full((2, 5), 2.0), torch.full((2,), 100.0)
    index = np.arange(2)[:, None]
    members = (
        Member("a", 0, index),
        Member("b", 0, index[::-1]),
        Member("bias", 0, index),
        Member("c", 1, index),
    )
    b[1] = 7.0
    scores = group_scores(
        [Group("g", 2, members)],
        {"a": a, "b": b, "bias": bias, "c": torch.ones(4, 2)},
        {"a": 0, "b": 0, "c": 0},
    )
    assert scores["g"].tolist() == [1 + 7, 1 + 2]


def test_a_member_may_cover_several_indices_and_some_channels() -> None:
    weight = torch.tensor([[1.0], [3.0], [5.0], [7.0]])
    member = Member("w", 0, np.array([[0, 1], [2, 3]]), np.array([2, 0]))
    scores = group_scores([Group("g", 3, (member,))], {"w": weight}, {"w": 0})
    assert scores["g"].tolist() == [6, 0, 2]


def test_a_group_without_targets_has_no_scores() -> None:
    assert group_scores([uncoupled("w", 1, 3)], {"w": torch.ones(2, 3)}, {"w": 0}) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    weight = torch.full((2, 512, 3, 3), 60.0, dtype=dtype)  # 276,480 in sum: too much for float16
    weight[1, 0, 0, 0] = 61.0
    scores = group_scores([uncoupled("w", 0, 2)], {"w": weight}, {"w": 0})["w"]
    assert np.isfinite(scores).all()
    assert scores[0] < scores[1]


def test_scores_that_are_not_finite_name_the_weight() -> None:
    with pytest.raises(InputError, match="The weight w gives channel scores that are not finite"):
        group_scores([uncoupled("w", 0, 2)], {"w": torch.tensor([[1.0], [float("nan")]])}, {"w": 0})


def model_with(value: float, where: str) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    with torch.no_grad():
        model.get_parameter(where).view(-1)[1] = value
    return model


@pytest.mark.parametrize("where", ["0.weight", "0.bias", "1.weight"])
def test_nan_anywhere_is_refused(where: str) -> None:
    with pytest.raises(InputError, match=f"The weight {where} holds 1 NaN and 0 infinite"):
        check_values(model_with(float("nan"), where), {"0.weight"})


def test_infinity_is_refused_where_it_would_be_ranked() -> None:
    check_values(model_with(float("-inf"), "0.bias"), {"0.weight"})
    with pytest.raises(InputError, match=r"0 NaN and 1 infinite of 6 values"):
        check_values(model_with(float("-inf"), "0.weight"), {"0.weight"})


def test_large_finite_weights_pass() -> None:
    model = torch.nn.Linear(64, 64).half()
    torch.nn.init.constant_(model.weight, 60_000)  # the sum overflows, the weights do not
    check_values(model, {"weight"})


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(InputError, match="meta device and has no values"):
        check_values(torch.nn.Linear(2, 2, device="meta"), {"weight"})
