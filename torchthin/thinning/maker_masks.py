"""Masks of all that makes a removed channel, beside the filters that were selected: biases, embeddings, positions, norms.

Where no bias can stand for what a removed channel still emits, the channel must be zero, and it is once everything that makes it
is.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.dependency.producers import Makers, makers
from torchthin.graph.parametrized import DerivedWeight, layer_of
from torchthin.selection.masks import spread_mask
from torchthin.selection.selection import Selection
from torchthin.thinning.survivors import BoolArray, Place, Survivors


def with_maker_masks(
    selection: Selection,
    zeroed: Set[Place],
    survivors: Survivors,
    tensors: Mapping[str, Tensor],
    derived: Mapping[str, DerivedWeight],
) -> Selection:
    """Return a selection that also masks what else makes its removed channels.

    Args:
        selection: what was selected; its own masks are of filters.
        zeroed: where removed channels must be zero, as trials have shown.
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
    for name, axis in sorted(makes.weights | makes.vectors) if wanted.any() else ():
        hit, item = wanted[_components(survivors, name, axis)], derived.get(name)
        if item is not None:
            if item.masked is None:
                continue
            name, axis = item.masked, item.axis
        if hit.any() and not _is_selected(selection, name, axis):
            mask = spread_mask(torch.from_numpy(~hit), tensors[name], axis)
            masks[name] = masks[name] & mask if name in masks else mask
            axes.add((name, axis))
    return replace(selection, maker_masks=masks, maker_axes=frozenset(axes))


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
