"""Masks as they stand in files: a bit for each decision, and where whole channels go, a decision for each channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchthin.errors import CheckpointError

Shapes = dict[str, list[list[int]]]
"""Name -> the mask's shape, and the shape that its bits have: 1 along every axis on which the mask does not vary."""


def packed(masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Shapes]:
    """Return bool masks as bytes of eight bits (the first is the highest) and their shapes; `unpacked` makes masks of them."""
    bits: dict[str, Tensor] = {}
    shapes: Shapes = {}
    for name, mask in masks.items():
        own = _without_repeats(mask.detach().cpu())
        bits[name] = torch.from_numpy(np.packbits(own.numpy().reshape(-1)))
        shapes[name] = [list(mask.shape), list(own.shape)]
    return bits, shapes


def _without_repeats(mask: Tensor) -> Tensor:
    for axis in range(mask.dim()):
        if mask.shape[axis] > 1:
            first = mask.narrow(axis, 0, 1)
            mask = first if mask.stride(axis) == 0 or bool((mask == first).all()) else mask
    return mask


def unpacked(path: Path, masks: Mapping[str, Any], shapes: Any) -> dict[str, Tensor]:
    """Return the masks in a file as bool tensors, True = kept, which take no more memory than their bits say.

    Files of before hold bool tensors, and no shapes.

    Raises:
        CheckpointError: bits and shapes do not fit.
    """
    try:
        return {name: _mask(bits, (shapes or {}).get(name)) for name, bits in masks.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"The masks of {path} are damaged: bits and shapes do not fit. Prune again, or load the weights alone."
        ) from error


def _mask(bits: Tensor, shapes: Any) -> Tensor:
    if bits.dtype == torch.bool:
        return bits
    shape, own = shapes
    count = math.prod(own)
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
        raise ValueError(bits.shape)
    flat = torch.from_numpy(np.unpackbits(bits.numpy(), count=count)).bool()
    return flat.reshape(own).expand(shape)
