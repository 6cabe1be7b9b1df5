"""Which parameters produce channels, and along which axis."""

from __future__ import annotations

import numpy as np

from torchthin.dependency.propagate import Labels
from torchthin.graph.operators import ATTENTION, BATCHED_PRODUCTS, CONVOLUTIONS, GROUPED_PRODUCTS
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
        summed = _summed_axis(ops[index], labels.graph.values[contraction.weight].shape)
        for place, axis in enumerate(weight):
            if not isinstance(axis, np.ndarray) or place == summed or place < batch:
                continue
            met = [whole[id(axis)]] if id(axis) in whole else np.unique(owners[axis]).tolist()
            for number in met:
                if number >= 0:
                    name, position, _ = axes[number]
                    found.setdefault(name, position)
    return found


def _summed_axis(op: Op, shape: tuple[int, ...]) -> int | None:
    """Return the axis of a contraction's weight that is summed over; None for transposed depthwise ones."""
    if op.name in CONVOLUTIONS:
        if not op.arguments.get("transposed", False):
            return 1
        return None if shape[1] == 1 and op.arguments.get("groups", 1) > 1 else 0
    return len(shape) - (1 if op.name in ATTENTION else 2)
