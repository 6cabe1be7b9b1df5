"""Schedules: known values, ends exactly at the target, never falls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchthin.errors import ConfigError
from torchthin.selection.schedule import agp, linear, one_shot

SHARES = st.floats(0, 1, exclude_max=True)


def test_agp_follows_zhu_and_gupta() -> None:
    values = [agp(t, initial=0.1, target=0.9, start=5, steps=4, interval=2) for t in (5, 7, 9, 11, 13)]
    assert values == pytest.approx([0.9 - 0.8 * (1 - k / 4) ** 3 for k in range(5)], abs=1e-15)


def test_linear_grows_by_equal_steps() -> None:
    assert [linear(t, target=0.5, steps=4) for t in range(5)] == [0.0, 0.125, 0.25, 0.375, 0.5]


def test_one_shot_jumps_after_the_start() -> None:
    assert [one_shot(t, target=0.5, start=2) for t in range(5)] == [0.0, 0.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("schedule", [agp, linear])
@given(target=SHARES, steps=st.integers(1, 200), late=st.integers(0, 10))
def test_ends_exactly_at_the_target_and_stays(schedule, target, steps, late) -> None:  # type: ignore[no-untyped-def]
    assert schedule(steps + late, target=target, steps=steps) == target


@pytest.mark.parametrize("schedule", [agp, linear])
@given(target=SHARES, steps=st.integers(1, 50))
def test_never_falls_and_never_overshoots(schedule, target, steps) -> None:  # type: ignore[no-untyped-def]
    values = [schedule(t, target=target, steps=steps) for t in range(-1, steps + 2)]
    assert values == sorted(values)
    assert values[0] == values[1] == pytest.approx(0, abs=1e-15)
    assert max(values) == target


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 3, "interval": 0}])
def test_a_schedule_without_length_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        agp(1, target=0.5, **wrong)
