"""Masks of all that makes a removed channel, beside the filters that were selected: biases, embeddings, positions, norms.

Where no bias can stand for what a removed channel still emits, the channel must be zero, and it is once everything that makes it
is. Where it still is not (channel attention mixes others into it), the weights that read it are masked instead: they are removed
with it. Only what comes straight from the input stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.dependency.producers import Makers, makers
from torchthin.dependency.propagate import Labels
from torchthin.graph.operators import DIVISIONS
from torchthin.graph.parametrized import DerivedWeight, layer_of
from torchthin.graph.provenance import origin, sources
from torchthin.selection.masks import spread_mask
from torchthin.selection.selection import Selection
from torchthin.thinning.survivors import BoolArray, Place, Survivors


def with_maker_masks(
    selection: Selection,
    zeroed: Set[Place],
    unread: Set[Place],
    survivors: Survivors,
    tensors: Mapping[str, Tensor],
    derived: Mapping[str, DerivedWeight],
) -> Selection:
    """Return a selection that also masks what else makes its removed channels, or reads them.

    Args:
        selection: what was selected; its own masks are of filters.
        zeroed: where removed channels must be zero, as trials have shown.
        unread: where they may hold anything, so that nothing may read them.
        survivors: what is removed.
        tensors: parameters and buffers by name.
        derived: weights that are computed from other parameters: where zeros of the original are 0 / 0, another one is masked.
    """
    makes = makers(survivors.labels)
    wanted = _sure_to_be_zeroed(makes, selection, survivors)
    for _, value, axis in zeroed:
        if survivors.along(value, axis) is not None:
            wanted[survivors.removed_along(value, axis)] = True
    masks: dict[str, Tensor] = {}
    axes = set()
    found = [(*place, wanted) for place in sorted(makes.weights | makes.vectors) if wanted.any()]
    spared = _divisors(survivors.labels) if found else frozenset()
    found = [(name, axis, chosen) for name, axis, chosen in found if name not in spared]
    for name, axis, chosen in [*found, *_readers(survivors, unread)]:
        hit, item = chosen[_components(survivors, name, axis)], derived.get(name)
        if item is not None:
            if item.masked is None:
                continue
            name, axis = item.masked, item.axis
        if hit.any() and not _is_selected(selection, name, axis):
            mask = spread_mask(torch.from_numpy(~hit), tensors[name], axis)
            masks[name] = masks[name] & mask if name in masks else mask
            axes.add((name, axis))
    return replace(selection, maker_masks=masks, maker_axes=frozenset(axes))


def _readers(survivors: Survivors, unread: Set[Place]) -> Iterator[tuple[str, int, BoolArray]]:
    """Yield tensors and axes by which removed channels are read at some places, and which components these are."""
    labels = survivors.labels
    for op, value, axis in sorted(unread):
        name = read_by(labels, op, value, axis)
        if name is None or survivors.along(value, axis) is None:
            continue
        chosen = np.zeros(survivors.removed.size, np.bool_)
        chosen[survivors.removed_along(value, axis)] = True
        for position, vector in enumerate(labels.state[name]):
            if isinstance(vector, np.ndarray) and chosen[survivors.components.of_label[vector]].any():
                yield name, position, chosen


def read_by(labels: Labels, op: int, value: int, axis: int) -> str | None:
    """Return the parameter by which an op sums over an axis of a value; None where it is no such op, or no one parameter."""
    contraction = labels.contractions.get(op)
    if contraction is None or (value, axis) != (contraction.data, contraction.data_axis):
        return None
    found = origin(labels.graph, contraction.weight)
    return found.name if found is not None and contraction.weight not in labels.from_input else None


def _divisors(labels: Labels) -> frozenset[str]:
    """Return tensors by which the model divides what comes from the input: zeros there would make no zeros."""
    graph = labels.graph
    divided = [op for op in graph.ops if op.name in DIVISIONS and op.reads[0] in labels.from_input]
    by = {value for op in divided for value in op.reads[1:] if value not in labels.from_input}
    return frozenset(graph.names[n] for value in by for n in sources(graph, value) if n in graph.names)


def is_made_by_layers(labels: Labels, value: int) -> bool:
    """Whether all that reaches a value from the input passes through an op that sums over channels."""
    graph, waiting, seen = labels.graph, [value], {value}
    while waiting:
        op = graph.producer.get(waiting.pop())
        if op is None:
            return False
        if op.index not in labels.contractions:
            more = [number for number in op.reads if number in labels.from_input and number not in seen]
            waiting += more
            seen.update(more)
    return True


def _sure_to_be_zeroed(makes: Makers, selection: Selection, survivors: Survivors) -> BoolArray:
    """Return which removed components must be zero at any rate.

    Something makes them that is neither a selected filter nor a bias (an embedding, a position), or both factors of a product
    come from the input.
    """
    found = np.zeros(survivors.removed.size, np.bool_)
    masked = {layer_of(name) for name in selection.masks}
    for name, axis in makes.weights:
        if layer_of(name) not in masked:
            found[_components(survivors, name, axis)] = True
    labels = survivors.labels
    for (
        contraction
    ) in labels.contractions.values():  # the constants of a product reach what lives in the other factor
        place = contraction.data, contraction.data_axis
        if contraction.weight in labels.from_input and survivors.along(*place) is not None:
            found[survivors.removed_along(*place)] = True
    return found & survivors.removed


def _is_selected(selection: Selection, name: str, axis: int) -> bool:
    return name in selection.masks and selection.masked_axes.get(name, selection.axes.get(name)) == axis


def _components(survivors: Survivors, name: str, axis: int) -> npt.NDArray[np.int64]:
    vector = survivors.labels.state[name][axis]
    assert isinstance(vector, np.ndarray)
    return survivors.components.of_label[vector]
