"""Layers as ADI's tool stores them: what of their kernels and biases it leaves out, since it is zero or stored already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from torchthin.max7800x.cost.layer import Layer
from torchthin.max7800x.synthesis.integers import ChipNumbers


def as_stored(layers: Sequence[Layer], numbers: Sequence[ChipNumbers | None]) -> tuple[Layer, ...]:
    """Return layers that count what ai8xize.py stores: no biases that are all zero, equal kernels and equal biases once."""
    weights = [None if one is None else one.weight for one in numbers]
    biases = [None if one is None else one.bias for one in numbers]
    found = []
    for number, (layer, weight, bias) in enumerate(zip(layers, weights, biases, strict=True)):
        if weight is None:
            found.append(layer)
            continue
        earlier = [n for n, other in enumerate(layers[:number]) if other.weight_bits == layer.weight_bits]
        found.append(
            replace(
                layer,
                bias=bias is not None and bool(bias.any()),
                shares=_first(earlier, weights, weight),
                shares_bias=bias is not None and _first(range(number), biases, bias) is not None,
            )
        )
    return tuple(found)


def _first(among: Sequence[int], tensors: Sequence[Tensor | None], like: Tensor) -> int | None:
    """Return the number of the first tensor that equals `like`."""
    for number in among:
        other = tensors[number]
        if other is not None and other.shape == like.shape and torch.equal(other, like):
            return number
    return None
