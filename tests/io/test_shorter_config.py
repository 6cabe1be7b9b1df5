"""Configurations with fewer layers that are tried: those that a class needs are among them."""

from typing import Any

import pytest

from torchthin.io.pretrained.shorter import proposals

KEPT = (0, 2, 3)
"""Of four layers."""
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "count alone": ({"layers": 4, "heads": 4}, {"layers": 3, "heads": 4}),
    "nested": ({"text": {"layers": 4}}, {"text": {"layers": 3}}),
    "an entry for each": (
        {"layers": 4, "kinds": ["a", "b", "a", "c"]},
        {"layers": 3, "kinds": ["a", "a", "c"]},
    ),
    "lists alone": ({"kinds": ["a", "b", "a", "c"]}, {"kinds": ["a", "a", "c"]}),
    "numbers of layers": ({"layers": 4, "sparse": [1, 3]}, {"layers": 3, "sparse": [2]}),
    "a list that is none of layers": (
        {"layers": 4, "sizes": [1, 2, 3, 4]},
        {"layers": 3, "sizes": [1, 2, 3, 4]},
    ),
    "depths of stages": ({"depths": [2, 4]}, {"depths": [2, 3]}),
    "dense up to a layer": ({"layers": 4, "dense": 2, "heads": 9}, {"layers": 3, "dense": 1, "heads": 9}),
    "names of stages": (
        {"layers": 4, "stages": ["stem", "stage1", "stage2", "stage3", "stage4"], "out": [4]},
        {"layers": 3},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_right_one_is_tried(name: str) -> None:
    config, wanted = CASES[name]
    assert wanted in list(proposals(config, 4, KEPT))
