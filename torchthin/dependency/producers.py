"""Which parameters produce channels, and along which axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchthin.dependency.groups import IntArray
from torchthin.dependency.labels import FlattenedAxis
from torchthin.dependency.propagate import Labels
from torchthin.dependency.registry import Contraction
from torchthin.graph.operators import (
    ATTENTION,
    BATCH_NORMS,
    BATCHED_PRODUCTS,
    CONVOLUTIONS,
    EMBEDDINGS,
    GROUPED_PRODUCTS,
    LAYER_NORMS,
    RMS_NORMS,
    SCALINGS,
)
from torchthin.graph.opgraph import Op


def producers(labels: Labels) -> dict[str, int]:
    """Return the parameters that make channels (filters of convolutions, rows of linear layers) -> the axis of their filters.

    Found by use, not by type: a parameter of two or more axes whose labels are the free axis of a contraction's weight.
    """
    owners = np.full(labels.space.count, -1, np.int64)
    axes = [
        (name, axis, vector)
        for name, all_axes in labels.state.items()
        for axis, vector in enumerate(all_axes)
        if isinstance(vector, np.ndarray) and len(all_axes) > 1
    ]
    for number, (_, _, vector) in enumerate(axes):
        owners[vector] = number
    whole = {id(vector): number for number, (_, _, vector) in enumerate(axes)}
    found: dict[str, int] = {}
    ops = labels.graph.by_index
    for index, contraction in labels.contractions.items():
        weight = labels.values[contraction.weight]
        batch = len(weight) - 2 if ops[index].name in BATCHED_PRODUCTS | GROUPED_PRODUCTS else 0
        summed = _summed_for(ops[index], labels.graph.values[contraction.weight].shape)
        for place, axis in enumerate(weight):
            if not isinstance(axis, np.ndarray) or place == summed or place < batch:
                continue
            met = [whole[id(axis)]] if id(axis) in whole else np.unique(owners[axis]).tolist()
            for number in met:
                if number >= 0:
                    name, position, _ = axes[number]
                    found.setdefault(name, position)
    return found


def with_tables(labels: Labels) -> dict[str, int]:
    """Return `producers`, and the embeddings: their columns are channels that can be named, too."""
    looked_up = {op.value("weight") for op in labels.graph.ops if op.name in EMBEDDINGS}
    tables = {name: 1 for name, value in labels.graph.state.items() if value in looked_up}
    return {**tables, **producers(labels)}


def _summed_for(op: Op, shape: tuple[int, ...]) -> int | None:
    """Return the axis of a contraction's weight that is summed over; None for transposed depthwise ones."""
    transposed = op.name in CONVOLUTIONS and op.arguments.get("transposed", False)
    if transposed and shape[1] == 1 and op.arguments.get("groups", 1) > 1:
        return None
    return summed_axis(op, len(shape))


def summed_axis(op: Op, rank: int) -> int:
    """Return the axis of a contraction's weight that is summed over, for a weight of `rank` axes."""
    if op.name in CONVOLUTIONS:
        return 0 if op.arguments.get("transposed", False) else 1
    return rank - (1 if op.name in ATTENTION else 2)


@dataclass(frozen=True)
class Makers:
    """Parameters and buffers whose entries reach a channel, by name and axis."""

    weights: frozenset[tuple[str, int]]
    """What is multiplied, looked up, added at its own place: all of it must be zero for the channel to be dead."""
    vectors: frozenset[tuple[str, int]]
    """Biases of layers, what BatchNorms read, factors: they make constants of dead channels."""
    scales: frozenset[tuple[str, int]]
    """Weights of BatchNorms, and factors: behind a zero a channel is constant."""
    read: frozenset[tuple[str, int]]
    """Axes that are summed over: a channel whose entries are zero is not read there."""

    @property
    def only_read(self) -> frozenset[tuple[str, int]]:
        """Axes that are summed over and make nothing."""
        return self.read - self.weights - self.vectors


def makers(labels: Labels) -> Makers:
    """Return everything that makes channels: every use of a parameter but as what reads them, the summed axis of a weight.

    Where no input reaches either factor of a product (a learned first state and what reads it), one is data all the same.
    """
    owners, axes = _owners(labels)
    weights: set[tuple[str, int]] = set()
    vectors: set[tuple[str, int]] = set()
    scales: set[tuple[str, int]] = set()
    read: set[tuple[str, int]] = set()
    for op in labels.graph.ops:
        contraction = labels.contractions.get(op.index)
        if contraction is None and not any(value in labels.from_input for value in op.reads):
            continue  # weights among themselves
        for value in op.reads:
            if value in labels.from_input or _is_statistic(op, value):
                continue
            rank = len(labels.values[value])
            skipped = None
            if contraction is not None and value == contraction.weight:
                skipped = summed_axis(op, rank)
            if (
                contraction is not None
                and value == contraction.data
                and contraction.weight in labels.from_input
            ):
                skipped = contraction.data_axis
            scale = op.name in SCALINGS or (
                op.name in BATCH_NORMS | RMS_NORMS and op.value("weight") == value
            )
            plain = scale or op.name in BATCH_NORMS or value in (op.value("bias"), _bias(op, contraction))
            plain &= op.name not in LAYER_NORMS - RMS_NORMS
            for place, axis in enumerate(labels.values[value]):
                for vector in (
                    () if axis is None else axis.parts if isinstance(axis, FlattenedAxis) else (axis,)
                ):
                    met = np.unique(owners[vector])
                    found = {axes[number] for number in met[met >= 0].tolist()}
                    (read if place == skipped else vectors if plain else weights).update(found)
                    scales |= found if scale else set()
    return Makers(frozenset(weights), frozenset(vectors - weights), frozenset(scales), frozenset(read))


def _is_statistic(op: Op, value: int) -> bool:
    """Whether a BatchNorm reads a value as its statistics: behind a weight of zero they do not matter."""
    if op.name not in BATCH_NORMS:
        return False
    unweighted = op.value("weight") is None
    return value == op.value("running_var") or (value == op.value("running_mean") and not unweighted)


def _bias(op: Op, contraction: Contraction | None) -> int | None:
    return None if contraction is None else op.value(contraction.bias)


def _owners(labels: Labels) -> tuple[IntArray, list[tuple[str, int]]]:
    """Return for every label which axis it belongs to (-1: none), and these axes."""
    owners = np.full(labels.space.count, -1, np.int64)
    axes: list[tuple[str, int]] = []
    for name, all_axes in labels.state.items():
        for axis, vector in enumerate(all_axes):
            if isinstance(vector, np.ndarray):
                owners[vector] = len(axes)
                axes.append((name, axis))
    return owners, axes
