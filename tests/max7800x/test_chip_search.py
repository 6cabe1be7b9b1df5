"""The search for widths: targets hold, little is lost, and against all combinations where those can be tried."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import conv, pose

from torchthin.config import parse_limit
from torchthin.errors import ConfigError
from torchthin.max7800x import Chip
from torchthin.max7800x.chips import MAX78000
from torchthin.max7800x.cost.network import network_cost
from torchthin.max7800x.cost.widths import WidthModel, useful_widths
from torchthin.max7800x.selector import WidthUnit
from torchthin.selection.allocator import Allocator, Levels

LAYERS = pose()
FREE = [number for number, layer in enumerate(LAYERS) if not layer.wide]
Widths = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    widths: Widths
    reached: bool
    tried: int


def search(units: Sequence[WidthUnit], excess: Callable[[Widths], float]) -> Found:
    """Do what a chip's selection does: take moves until the target holds, then give back what was not needed."""

    def widths(levels: Levels) -> Widths:
        return tuple(unit.widths[level] for unit, level in zip(units, levels, strict=True))

    allocator = Allocator(units, lambda levels: excess(widths(levels)))
    levels = allocator.descend()
    reached = allocator.excess(levels) <= 0
    if reached:
        levels = allocator.exchange(allocator.give_back(levels))
    return Found(widths(levels), reached, allocator.tried)


def even_units() -> list[WidthUnit]:
    """Every channel of a layer is worth the same."""
    widths = [useful_widths(LAYERS[number].out_channels, MAX78000) for number in FREE]
    return [WidthUnit(one, tuple(1 - width / one[0] for width in one)) for one in widths]


def outputs(widths: tuple[int, ...]) -> dict[int, int]:
    return dict(zip(FREE, widths, strict=True))


@pytest.mark.parametrize("share", [0.9, 0.75, 0.6, 0.5])
def test_cycles_of_the_pose_student(share: float) -> None:
    network = WidthModel(LAYERS, MAX78000)
    before = network.cycles({})
    found = search(even_units(), lambda widths: max(0.0, network.cycles(outputs(widths)) - share * before))
    assert found.reached
    assert network.cycles(outputs(found.widths)) <= share * before
    assert network.cycles(outputs(found.widths)) > (share - 0.02) * before
    assert found.tried < 10_000


def test_the_chip_rewards_other_channels_than_a_uniform_cut_takes() -> None:
    """The cut of a quarter of every layer: 21 % of the cycles for 43 % of the weights."""
    network = WidthModel(LAYERS, MAX78000)
    cycles, weights = network.cycles({}), network.weight_bytes({})
    found = search(even_units(), lambda widths: max(0.0, network.cycles(outputs(widths)) - 0.685 * cycles))
    assert network.weight_bytes(outputs(found.widths)) > 0.75 * weights
    uniform = network_cost(pose((20, 20, 36, 36, 48, 48, 72, 72, 48, 48, 48, 36)), MAX78000)
    assert cycles - network.cycles(outputs(found.widths)) > 1.5 * (cycles - uniform.cycles)


@pytest.mark.parametrize("shares", [None, 1])
def test_weights_of_a_layer_that_is_called_twice_count_once(shares: int | None) -> None:
    layers = [conv(3, 16), conv(16, 16, source=0), conv(16, 16, source=1, shares=shares)]
    network = WidthModel(layers, MAX78000)
    assert network.weight_bytes({}) == network_cost(layers, MAX78000).weight_bytes
    cut = {0: 8, 1: 8, 2: 8}
    assert network.weight_bytes(cut) == network_cost(network.layers(cut), MAX78000).weight_bytes
    twice = 1 if shares is None else 0
    assert network.weight_bytes(cut) == 9 * (3 * 8 + 8 * 8 * (1 + twice))


def test_depth() -> None:
    network = WidthModel(LAYERS, MAX78000)
    found = search(even_units(), lambda widths: max(0.0, network.deepest_words(outputs(widths)) - 600))
    assert found.reached
    assert network.deepest_words(outputs(found.widths)) <= 600
    assert network_cost(network.layers(outputs(found.widths)), MAX78000).deepest_words <= 600


def test_what_cannot_be_reached_is_not() -> None:
    network = WidthModel(LAYERS, MAX78000)
    found = search(even_units(), lambda widths: max(0.0, network.cycles(outputs(widths)) - 1000))
    assert not found.reached


@given(
    st.lists(st.lists(st.floats(0.01, 0.9), min_size=3, max_size=3), min_size=3, max_size=3),
    st.floats(0.3, 0.95),
)
@settings(max_examples=40, deadline=None)
def test_near_the_best_of_all_combinations(losses: list[list[float]], share: float) -> None:
    layers = [
        conv(12, 96, 32, name="a"),
        conv(96, 80, 32, source=0, name="b"),
        conv(80, 48, source=1, name="c"),
    ]
    network = WidthModel(layers, MAX78000)
    widths = [(96, 88, 64, 32), (80, 72, 64, 24), (48, 40, 32, 16)]
    units = [WidthUnit(steps, (0.0, *sorted(lost))) for steps, lost in zip(widths, losses, strict=True)]
    limit = share * network.cycles({})

    def excess(chosen: tuple[int, ...]) -> float:
        return max(0.0, network.cycles(dict(enumerate(chosen))) - limit)

    def penalty(chosen: tuple[int, ...]) -> float:
        return sum(unit.loss(unit.widths.index(width)) for unit, width in zip(units, chosen, strict=True))

    feasible = [chosen for chosen in itertools.product(*widths) if not excess(chosen)]
    found = search(units, excess)
    assert found.reached == bool(feasible)
    if feasible:
        assert excess(found.widths) == 0
        assert penalty(found.widths) <= 2 * min(map(penalty, feasible)) + 1e-9


def test_two_producers_of_one_input_go_together() -> None:
    """40 + 40 channels into a layer: no width of one of them alone crosses 64 inputs by little."""
    layers = [
        conv(12, 40, name="a"),
        conv(12, 40, name="b"),
        conv(80, 16, name="c", sources=(0, 1)),
    ]
    network = WidthModel(layers, MAX78000)
    units = [WidthUnit((40, 36, 32), (0.0, 0.1, 0.2))] * 2
    target = network.cycles({0: 32, 1: 32})
    found = search(units, lambda widths: max(0, network.cycles(dict(enumerate(widths))) - target))
    assert found.widths == (32, 32)


def test_resized_networks_cost_what_they_cost_when_built_so() -> None:
    network = WidthModel(LAYERS, MAX78000)
    widths = (20, 16, 36, 32, 60, 64, 72, 64, 48, 44, 60, 36, 36)
    built = pose((*widths[:11], 36))
    assert network.layers(outputs(widths)) == tuple(built)
    cost = network_cost(built, MAX78000)
    assert network.cycles(outputs(widths)) == cost.cycles
    assert network.deepest_words(outputs(widths)) == cost.deepest_words
    assert network.weight_bytes(outputs(widths)) == cost.weight_bytes


@pytest.mark.parametrize("channels", [1, 4, 50, 64, 65, 96, 150, 256])
def test_useful_widths_waste_nothing(channels: int) -> None:
    widths = useful_widths(channels, MAX78000)
    assert widths[0] == channels
    assert list(widths) == sorted(set(widths), reverse=True)
    cycles = [network_cost([conv(12, width)], MAX78000).cycles for width in widths]
    assert cycles == sorted(set(cycles), reverse=True)


@pytest.mark.parametrize("text", ["0.6", "1.5x", "0x", "-3", "x", "", "12.5", "0"])
def test_limits_that_are_none(text: str) -> None:
    assert parse_limit(text) is None
    with pytest.raises(ConfigError, match="must be a share such as"):
        _ = Chip(cycles=text).limits


def test_limits() -> None:
    for text, limit in (("0.6x", 600), ("1x", 1000), (" 450_000 ", 450_000)):
        assert Chip(cycles=text).limits["cycles"].of(1000) == limit
    assert Chip(cycles="0.6x", fit=True).asked == "at most 0.6x cycles, a cut that fits"
    assert math.isclose(WidthUnit((4, 2), (0.0, 0.5)).loss(1), math.log(2))
