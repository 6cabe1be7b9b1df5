"""The front and the answer, for any points."""

from hypothesis import given
from hypothesis import strategies as st

from torchthin.pruning.comparison.comparison import Comparison, Row, pareto_front

# Few values, so that ties are common.
POINTS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), max_size=12)


def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] >= b[0] and a[1] <= b[1] and a != b


@given(POINTS)
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    wanted = {n for n, point in enumerate(points) if not any(beats(other, point) for other in points)}
    found = pareto_front([value for value, _ in points], [cost for _, cost in points])
    assert set(found) == wanted
    assert len(found) == len(wanted)
    assert [points[n][1] for n in found] == sorted(points[n][1] for n in found)


@given(POINTS, st.integers(-3, 3), st.floats(0, 2))
def test_the_smallest_is_good_and_none_good_is_smaller(
    points: list[tuple[int, int]], dense: int, within: float
) -> None:
    rows = tuple(Row("m", value=value, macs=cost) for value, cost in points)
    good = [row for row in rows if row.value is not None and dense - row.value <= within * abs(dense)]
    found = Comparison(Row("dense", value=dense, macs=6), rows, "accuracy").smallest(within)
    if found is None:
        assert not good
    else:
        assert found in good
        figures = [(row.value, row.macs) for row in good]
        assert not any(beats(other, (found.value, found.macs)) for other in figures)  # type: ignore[arg-type]
        assert found.macs == min(row.macs for row in good if row.macs is not None)
