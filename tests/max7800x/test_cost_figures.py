"""Equal to what ADI's own tool printed, in every case."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from networks import FULL, QUARTER, conv, pose

from torchthin.max7800x.chips import MAX78000, MAX78002, WORD_BYTES, chip_named
from torchthin.max7800x.cost.cycles import cycles
from torchthin.max7800x.cost.layer import Layer, kernel_words, passes
from torchthin.max7800x.cost.network import network_cost
from torchthin.max7800x.cost.placement import place_depthwise_biases

PRINTED = Path(__file__).parents[1] / "data" / "adi_networks.json"


@pytest.mark.parametrize(
    ("into", "out", "words", "processors", "blocked", "raw", "expected"),
    [
        (48, 96, 96, 48, 41_472, 41_472, 25_292),
        (64, 96, 96, 64, 55_296, 55_296, 25_292),
        (65, 96, 192, 36, 62_208, 56_160, 50_516),
        (96, 96, 192, 48, 82_944, 82_944, 50_516),
        (96, 92, 192, 48, 82_944, 79_488, 50_516),
        (96, 65, 144, 48, 62_208, 56_160, 38_228),
        (96, 64, 128, 48, 55_296, 55_296, 34_132),
        (96, 48, 96, 48, 41_472, 41_472, 25_940),
        (64, 64, 64, 64, 36_864, 36_864, 17_100),
        (64, 63, 63, 64, 36_288, 36_288, 16_844),
        (60, 60, 60, 60, 32_400, 32_400, 16_076),
    ],
)
def test_one_layer_of_3x3_kernels(
    into: int, out: int, words: int, processors: int, blocked: int, raw: int, expected: int
) -> None:
    layer = conv(into, out)
    assert kernel_words(layer, MAX78000) == words
    assert passes(into, MAX78000)[1] == processors
    assert kernel_words(layer, MAX78000) * WORD_BYTES * passes(into, MAX78000)[1] == blocked
    assert layer.weight_bytes == raw
    assert cycles(layer, MAX78000) == expected


@pytest.mark.parametrize(("idle", "words", "expected"), [(0, 32, 8_908), (32, 64, 17_100), (2, 34, 9_420)])
def test_holes_in_the_output_map_and_a_start_within_a_data_memory_count_as_outputs(
    idle: int, words: int, expected: int
) -> None:
    """32 outputs on processors 0 to 31, on 0 to 15 and 48 to 63, and from 2 on: the tool prints 6 % more for the last."""
    layer = conv(64, 32, idle_slots=idle)
    assert kernel_words(layer, MAX78000) == words
    assert cycles(layer, MAX78000) == expected


@dataclass(frozen=True)
class Variant:
    name: str
    widths: tuple[int, ...]
    weights: int
    bias: int
    words: int
    deepest: int
    cycles: int
    folded: bool = True


VARIANTS = [
    Variant("full", FULL, 330_384, 809, 36_912, 729, 745_665),
    Variant("pooled", FULL, 328_440, 809, 36_696, 729, 757_953, folded=False),
    Variant("quarter", QUARTER, 188_388, 625, 21_004, 549, 590_017),
    Variant("conv7, conv8 64", (*FULL[:6], 64, 64, *FULL[8:]), 263_824, 745, 29_536, 561, 687_161),
    Variant("conv3 32", (24, 24, 32, *FULL[3:]), 320_016, 793, 35_760, 713, 680_129),
    Variant("conv6 60", (*FULL[:5], 60, *FULL[6:]), 324_624, 805, 36_272, 725, 744_641),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_pose_student(variant: Variant) -> None:
    cost = network_cost(pose(variant.widths, folded=variant.folded), MAX78000)
    assert cost.weight_bytes == variant.weights
    assert cost.bias_bytes == variant.bias
    assert cost.kernel_words == variant.words
    assert cost.deepest_words == variant.deepest
    assert cost.cycles == variant.cycles
    assert cost.cycles_exact
    assert cost.fits, cost.violations


def test_layers_of_the_pose_student() -> None:
    rows = network_cost(pose(), MAX78000).layers
    assert [(row.kernel_words, row.cycles) for row in rows] == [
        (24, 107_276),
        (24, 107_276),
        (48, 205_580),
        (48, 54_668),
        (64, 67_980),
        (64, 17_868),
        (96, 25_292),
        (192, 50_516),
        (15, 33_792),
        (64, 17_100),
        (64, 17_100),
        (6, 12_800),
        (3, 5_376),
        (6, 12_800),
        (5, 10_240),
    ]
    assert [row.output_bytes for row in rows[:3]] == [16_384] * 3


def test_on_the_max78002_words_are_the_same_and_cycles_a_guide() -> None:
    cost = network_cost(pose(), MAX78002)
    assert (cost.kernel_words, cost.deepest_words, cost.cycles_exact) == (36_912, 729, False)
    assert cost.kernel_capacity == 4_096


def test_a_network_that_the_tool_refuses_until_its_maps_are_moved() -> None:
    """At 84 % of the printed weight memory, with all maps at processor 0; moved apart, the tool takes it."""
    cost = network_cost(pose((*FULL[:6], 112, 112, *FULL[8:])), MAX78000)
    assert (cost.weight_bytes, cost.cycles) == (370_576, 757_953)
    assert cost.moved
    assert cost.fits


@pytest.mark.parametrize(
    ("layer", "fewer", "saved"),
    [
        (0, 8, 32_768),
        (1, 8, 32_768),
        (2, 8, 32_768),
        (3, 8, 8_192),
        (4, 8, 8_192),
        (7, 8, 4_096),
        (8, 8, 4_096),
        (6, 32, 33_416),
        (6, 24, 6_144),
        (6, 4, 0),
        (7, 4, 0),
    ],
)
def test_what_removing_filters_saves(layer: int, fewer: int, saved: int) -> None:
    widths = tuple(width - fewer * (number == layer) for number, width in enumerate(FULL))
    less = network_cost(pose(widths), MAX78000).cycles
    assert network_cost(pose(), MAX78000).cycles - less == saved


def test_no_saving_inside_a_step_of_eight() -> None:
    fewer = network_cost(pose((*FULL[:6], 92, *FULL[7:])), MAX78000)
    full = network_cost(pose(), MAX78000)
    assert (fewer.cycles, fewer.deepest_words) == (full.cycles, full.deepest_words)


@pytest.mark.parametrize(
    ("channels", "first", "in_place", "printed"),
    [
        (32, 4, False, [16, 16, 4]),
        (32, 0, True, [16, 16]),
        (64, 0, True, [16, 16, 16, 16]),
        (12, 4, False, [12]),
    ],
)
def test_biases_of_depthwise_layers(channels: int, first: int, in_place: bool, printed: list[int]) -> None:
    """Bytes in each quadrant; the first as ai8xize.py printed them for a thinned MobileFaceNet."""
    layer = conv(channels, channels, conv_groups=channels)
    used = dict.fromkeys(range(4), 0)
    place_depthwise_biases(used, dict(used), range(first, first + channels), layer, in_place, MAX78002)
    assert [used[quadrant] for quadrant in range(len(printed))] == printed
    assert sum(used.values()) == sum(printed)


def _layers(entry: dict[str, Any]) -> list[Layer]:
    values = ({k: tuple(v) if isinstance(v, list) else v for k, v in one.items()} for one in entry["layers"])
    return [Layer(name=f"l{number}", **one) for number, one in enumerate(values)]


@pytest.mark.parametrize(
    "entry", json.loads(PRINTED.read_text()), ids=lambda entry: f"{entry['chip']}-{entry['name']}"
)
def test_networks_that_went_through_the_tool(entry: dict[str, Any]) -> None:
    """Kernel length and offset, cycles, weight and bias bytes of networks of all kinds of layers."""
    cost = network_cost(_layers(entry), chip_named(entry["chip"]))
    assert cost.fits, cost.violations
    assert [row.kernel_words for row in cost.layers] == entry["words"]
    assert [row.kernel_offset for row in cost.layers if row.kernel_words] == entry["offsets"]
    assert (cost.weight_bytes, cost.bias_bytes) == (entry["weight_bytes"], entry["bias_bytes"])
    if entry["cycles"] is not None:
        assert [row.cycles for row in cost.layers] == entry["cycles"]
