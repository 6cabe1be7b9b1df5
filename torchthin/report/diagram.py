"""The diagram of a network: a row per layer in the order in which they run, a lane per group from its first layer to its last.

A lane is free again below the last layer of its group, so a network of fifty layers needs few of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = 10
"""Number of colours in the page's palette; lanes beside each other get different ones."""


@dataclass(frozen=True)
class Mark:
    """A layer's place on a lane."""

    lane: int
    colour: int
    group: int
    produces: bool
    """Its filters are the group's channels; else it consumes them."""


@dataclass(frozen=True)
class Row:
    """One layer."""

    name: str
    kind: str
    channels: int
    marks: tuple[Mark, ...]
    frozen: bool
    """None of its filters can be removed."""


@dataclass(frozen=True)
class Lane:
    """One group from its first row to its last."""

    lane: int
    colour: int
    first: int
    last: int
    group: int
    name: str
    channels: int


@dataclass(frozen=True)
class Diagram:
    """The whole drawing, in rows and lanes."""

    rows: tuple[Row, ...]
    lanes: tuple[Lane, ...]
    width: int
    """Number of lanes beside each other."""


def diagram(network: Mapping[str, Any]) -> Diagram:
    """Lay out what `torchthin.report.inspection.Overview.to_dict` holds."""
    layers: Sequence[Mapping[str, Any]] = network["layers"]
    spans: dict[int, tuple[int, int]] = {}
    for row, layer in enumerate(layers):
        for group in (*layer["produces"], *layer["consumes"]):
            first, _ = spans.get(group, (row, row))
            spans[group] = (first, row)
    placed = _placed(spans)
    lanes = tuple(
        Lane(
            lane,
            colour,
            *spans[group],
            group,
            network["groups"][group]["name"],
            network["groups"][group]["channels"],
        )
        for group, (lane, colour) in placed.items()
    )
    rows = tuple(
        Row(
            layer["name"],
            layer["kind"],
            layer["channels"],
            tuple(
                Mark(*placed[group], group, produces)
                for produces in (False, True)
                for group in layer["produces" if produces else "consumes"]
            ),
            not layer["produces"],
        )
        for layer in layers
    )
    return Diagram(rows, lanes, 1 + max((lane.lane for lane in lanes), default=0))


def _placed(spans: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Give each group a lane that is free over its rows, the leftmost, and a colour: group -> (lane, colour)."""
    ends: list[int] = []
    placed: dict[int, tuple[int, int]] = {}
    for number, (group, (first, last)) in enumerate(sorted(spans.items(), key=lambda item: item[1])):
        lane = next((lane for lane, end in enumerate(ends) if end < first), len(ends))
        if lane == len(ends):
            ends.append(last)
        ends[lane] = last
        placed[group] = (lane, number % COLOURS)
    return placed
