"""Selection: exact counts, ties by index, equal numbers per block, masks that only grow."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from torchthin.dependency.groups import Group, IntArray, Member, uncoupled
from torchthin.errors import ConfigError
from torchthin.selection.channels import BoolArray, kth_smallest, prune_count, select_channels, select_weights

TARGETS = st.floats(0, 1, exclude_max=True)
# Few distinct values, so that ties are common.
SCORES = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=40).map(np.array)


def rows(blocks: IntArray) -> tuple[IntArray, ...]:
    """Return the balance of equally large blocks, from the block number of every channel."""
    return (np.argsort(blocks, kind="stable").reshape(int(blocks.max()) + 1, -1),)


def one(
    scores: Sequence[float] | NDArray[np.float64], target: float, group: Group | None = None
) -> BoolArray:
    values = np.asarray(scores, dtype=np.float64)
    group = group or uncoupled("g", 0, values.size)
    return select_channels([group], {"g": values}, target)["g"]


@pytest.mark.parametrize(
    ("target", "size", "count"),
    [(0.5, 19, 9), (0.29, 100, 28), (0.57, 100, 56), (0.07, 100, 7), (0.9, 1, 0), (0.0, 8, 0), (0.5, 0, 0)],
)
def test_counts_are_the_floor_of_the_double_product(target: float, size: int, count: int) -> None:
    assert prune_count(target, size) == count


@given(st.integers(1, 2**40))
def test_a_target_below_one_never_takes_all(size: int) -> None:
    assert prune_count(math.nextafter(1.0, 0.0), size) == size - 1


def test_the_lowest_scores_go_and_ties_go_by_index() -> None:
    assert one([3, 1, 2, 1, 1], 0.4).tolist() == [True, False, True, False, True]


@given(SCORES, TARGETS)
def test_channel_counts_are_exact(scores: NDArray[np.float64], target: float) -> None:
    keep = one(scores, target)
    assert (~keep).sum() == min(math.floor(target * scores.size), scores.size - 1)
    order = np.argsort(scores, kind="stable")
    assert not keep[order[: (~keep).sum()]].any()


@given(SCORES, TARGETS, TARGETS)
def test_a_higher_target_holds_a_lower_one(scores: NDArray[np.float64], a: float, b: float) -> None:
    assert (one(scores, max(a, b)) <= one(scores, min(a, b))).all()


@given(SCORES, SCORES, TARGETS, TARGETS)
def test_masks_only_grow_when_scores_change(
    before: NDArray[np.float64], after: NDArray[np.float64], a: float, b: float
) -> None:
    size = min(before.size, after.size)
    group, low, high = uncoupled("g", 0, size), min(a, b), max(a, b)
    first = select_channels([group], {"g": before[:size]}, low)
    second = select_channels([group], {"g": after[:size]}, high, previous=first)["g"]
    assert (second <= first["g"]).all()
    assert (~second).sum() == prune_count(high, size)


@st.composite
def blocked(draw: st.DrawFn) -> tuple[NDArray[np.float64], IntArray]:
    count, each = draw(st.integers(2, 5)), draw(st.integers(1, 8))
    scores = draw(st.lists(st.integers(0, 4).map(float), min_size=count * each, max_size=count * each))
    blocks = draw(st.permutations([number for number in range(count) for _ in range(each)]))
    return np.array(scores), np.array(blocks, dtype=np.int64)


@given(blocked(), TARGETS)
def test_equal_numbers_go_from_every_block(case: tuple[NDArray[np.float64], IntArray], target: float) -> None:
    scores, blocks = case
    keep = one(scores, target, Group("g", scores.size, (), rows(blocks)))
    count, each = int(blocks.max()) + 1, scores.size // (int(blocks.max()) + 1)
    wanted = min(prune_count(target, scores.size) // count, each - 1)
    for block in range(count):
        inside = np.flatnonzero(blocks == block)
        gone = inside[np.argsort(scores[inside], kind="stable")[:wanted]]
        assert sorted(gone) == np.flatnonzero((blocks == block) & ~keep).tolist()


@given(blocked(), TARGETS, TARGETS)
def test_blocks_too_only_grow(case: tuple[NDArray[np.float64], IntArray], a: float, b: float) -> None:
    scores, blocks = case
    group = Group("g", scores.size, (), rows(blocks))
    assert (one(scores, max(a, b), group) <= one(scores, min(a, b), group)).all()


def test_balances_that_cross_are_all_kept() -> None:
    # 16 channels; equal numbers from the 2 rows of one balance and the 2 rows of the other, which crosses it.
    numbers = np.arange(16)
    halves, parity = numbers.reshape(2, 8), numbers.reshape(8, 2).T
    keep = one(np.arange(16.0), 0.5, Group("g", 16, (), (halves, parity)))
    assert (~keep).sum() == 8
    for balance in (halves, parity):
        assert len(set((~keep)[balance].sum(axis=1))) == 1


def test_places_that_cannot_go_limit_the_others() -> None:
    balance = np.array([[0, 1, 2, 3], [4, 5, -1, -1]])
    keep = one([0, 1, 2, 3, 4, 5], 0.9, Group("g", 6, (), (balance,)))
    assert keep.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("scope", ["group", "global"])
@given(data=st.data(), target=TARGETS)
def test_every_member_keeps_a_channel(data: st.DataObject, target: float, scope: str) -> None:
    # Two layers make the second of two blocks: 4 and 4 channels of 16; a third layer makes the first block.
    scores = np.array(data.draw(st.lists(st.integers(0, 4).map(float), min_size=16, max_size=16)))
    parts = [np.arange(8), np.arange(8, 12), np.arange(12, 16)]
    members = tuple(
        Member(f"layer{n}", 0, np.arange(part.size)[:, None], part) for n, part in enumerate(parts)
    )
    group = Group("g", 16, members, (np.arange(16).reshape(2, 8),))
    keep = select_channels([group], {"g": scores}, target, scope)["g"]
    assert all(keep[part].any() for part in parts)
    assert keep[:8].sum() == keep[8:].sum()


def test_what_goes_is_spread_evenly_over_unlike_channels() -> None:
    balance = np.array([[0, 1], [2, 3]])
    keep = one([9, 9, 9, 9, 1, 2, 3], 0.5, Group("g", 7, (), (balance,)))
    assert keep.tolist() == [False, True, False, True, False, True, True]


def test_uneven_balances_hold() -> None:
    balances = (np.array([[0, 1], [2, 3]]), np.array([[0, 1, 2], [3, 4, 5]]))
    keep = one(np.arange(7.0)[::-1], 0.5, Group("g", 7, (), balances))
    for balance in balances:
        assert len(set((~keep)[balance].sum(axis=1))) == 1


@given(st.lists(SCORES, min_size=1, max_size=5), TARGETS, TARGETS)
def test_global_counts_are_exact_and_nested(parts: list[NDArray[np.float64]], a: float, b: float) -> None:
    groups = [uncoupled(str(number), 0, part.size) for number, part in enumerate(parts)]
    scores = {str(number): part for number, part in enumerate(parts)}
    low, high = (select_channels(groups, scores, target, "global") for target in (min(a, b), max(a, b)))
    sizes = sum(part.size for part in parts)
    movable = sizes - len(parts)
    assert sum(int((~keep).sum()) for keep in high.values()) == min(prune_count(max(a, b), sizes), movable)
    assert all(keep.any() for keep in high.values())
    assert all((high[name] <= low[name]).all() for name in low)


def test_global_compares_relative_to_the_groups_mean() -> None:
    groups = [uncoupled("small", 0, 4), uncoupled("large", 0, 4)]
    scores = {"small": np.array([1.0, 1, 1, 1]), "large": np.array([10.0, 10, 100, 100])}
    keeps = select_channels(groups, scores, 0.25, "global")
    assert keeps["small"].all()
    assert keeps["large"].tolist() == [False, False, True, True]


def test_global_takes_blocks_as_one() -> None:
    blocks = np.array([0, 0, 1, 1])
    groups = [Group("b", 4, (), rows(blocks)), uncoupled("u", 0, 4)]
    scores = {"b": np.array([0.0, 9, 0, 9]), "u": np.array([5.0, 5, 5, 5])}
    keeps = select_channels(groups, scores, 0.375, "global")
    assert keeps["b"].tolist() == [False, True, False, True]
    assert keeps["u"].tolist() == [False, True, True, True]


def test_global_takes_single_channels_against_whole_heads() -> None:
    single, heads = np.arange(8), np.array([8, 8, 9, 9, 10, 10, 11, 11])
    group = Group("g", 12, (), balances=(np.stack([single, heads]),))
    keeps = select_channels([group], {"g": np.arange(12.0)}, 0.5, "global")
    assert np.flatnonzero(~keeps["g"]).tolist() == [0, 1, 2, 3, 8, 9]


def test_groups_without_scores_are_left_out() -> None:
    assert select_channels([uncoupled("g", 0, 3)], {}, 0.5) == {}
    assert select_channels([], {}, 0.5, "global") == {}


@pytest.mark.parametrize(
    ("target", "scope"), [(1.0, "group"), (-0.1, "group"), (math.nan, "group"), (0.5, "layer")]
)
def test_bad_arguments_are_refused(target: float, scope: str) -> None:
    with pytest.raises(ConfigError):
        select_channels([uncoupled("g", 0, 2)], {"g": np.ones(2)}, target, scope)
    with pytest.raises(ConfigError):
        select_weights({"w": torch.ones(2)}, target, scope)


def test_scores_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must have shape \(3,\)"):
        select_channels([uncoupled("g", 0, 3)], {"g": np.ones(2)}, 0.5)


WEIGHTS = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=60)


@given(WEIGHTS, TARGETS, st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_weight_counts_are_exact_with_ties_by_index(
    values: list[float], target: float, dtype: torch.dtype
) -> None:
    weight = torch.tensor(values, dtype=dtype)
    mask = select_weights({"w": weight}, target)["w"]
    count = prune_count(target, len(values))
    order = np.argsort(np.abs(values), kind="stable")
    assert sorted(order[:count]) == torch.nonzero(~mask).flatten().tolist()


@given(WEIGHTS, WEIGHTS, TARGETS, TARGETS)
def test_weight_masks_only_grow(before: list[float], after: list[float], a: float, b: float) -> None:
    size, low, high = min(len(before), len(after)), min(a, b), max(a, b)
    first = select_weights({"w": torch.tensor(before[:size])}, low)
    second = select_weights({"w": torch.tensor(after[:size])}, high, previous=first)["w"]
    assert not (second & ~first["w"]).any()
    assert int((~second).sum()) == prune_count(high, size)


def test_memory_format_changes_nothing() -> None:
    weight = torch.randint(-3, 4, (6, 5, 3, 3)).float()
    last = weight.to(memory_format=torch.channels_last)
    masks = [select_weights({"w": w}, 0.5)["w"] for w in (weight, last)]
    assert torch.equal(*masks)


@pytest.mark.parametrize("mixed", [False, True])
def test_global_weights_share_one_count(mixed: bool) -> None:
    small = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64 if mixed else torch.float32)
    masks = select_weights({"small": small, "large": torch.tensor([5.0, 6.0, 0.25])}, 0.5, "global")
    assert masks["small"].tolist() == [[False, False, True]]
    assert masks["large"].tolist() == [True, True, False]
    assert all(mask.dtype == torch.bool for mask in masks.values())


@pytest.mark.parametrize("count", [1, 2, 137, 125_000, 249_999, 250_000])
@pytest.mark.parametrize("kind", ["random", "ties", "sorted", "constant", "periodic"])
def test_the_kth_smallest_of_many(kind: str, count: int) -> None:
    numbers = torch.arange(250_000)
    values = {
        "random": torch.rand(250_000, generator=torch.Generator().manual_seed(0)),
        "ties": (numbers * 7919 % 5).float(),
        "sorted": numbers.float(),
        "constant": torch.ones(250_000),
        "periodic": (numbers % 25).float(),  # a sample of every 25th sees one value only: the bracket misses
    }[kind]
    assert kth_smallest(values, count) == values.sort().values[count - 1]
