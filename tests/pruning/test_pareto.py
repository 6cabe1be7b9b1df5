"""The front and the answer, for any points."""

from hypothesis import given
from hypothesis import strategies as st

from torchthin.pruning.comparison.comparison import front, smallest, within_of

# Few values, so that ties are common.
POINTS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), max_size=12)


def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] >= b[0] and a[1] <= b[1] and a != b


@given(POINTS)
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    wanted = {n for n, point in enumerate(points) if not any(beats(other, point) for other in points)}
    found = front([value for value, _ in points], [cost for _, cost in points])
    assert set(found) == wanted
    assert len(found) == len(wanted)
    assert [points[n][1] for n in found] == sorted(points[n][1] for n in found)


@given(POINTS, st.integers(-3, 3), st.floats(0, 2))
def test_the_smallest_is_good_and_none_good_is_smaller(
    points: list[tuple[int, int]], dense: int, within: float
) -> None:
    values, costs = [value for value, _ in points], [cost for _, cost in points]
    good = within_of(values, dense, within)
    assert all(ok == (dense - value <= within * abs(dense)) for ok, value in zip(good, values, strict=True))
    found = smallest(values, costs, good)
    if found is None:
        assert not any(good)
    else:
        assert good[found]
        assert not any(ok and beats(point, points[found]) for ok, point in zip(good, points, strict=True))
        assert costs[found] == min(cost for cost, ok in zip(costs, good, strict=True) if ok)
