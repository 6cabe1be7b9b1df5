"""Widths that kernels work in: blocks of channels, of which a part costs what the whole one does.

On an H200 (float16, batch 64) ViT-B went from 8.3 to 8.0 ms where odd widths were left, and from 6.7 to 3.5 ms with multiples of
16; Swin-S with odd widths became slower than the full model. Tensor cores take rows of 16 bytes at least, and their tiles are
multiples of 16 in half precision; 8 fills the rows in float32, and in half precision under autocast, which no weight shows.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

GPUS = frozenset({"cuda"})
_HALVES = frozenset({torch.float16, torch.bfloat16})
_SHARE = 8
"""Blocks that the widest layer has at least: of a narrow model a smaller multiple is kept, or nothing could be removed."""


def device_type(model: nn.Module) -> str:
    """Return the type of the device where a model is: ``cpu``, ``cuda``."""
    return next((tensor.device.type for tensor in model.parameters()), "cpu")


def weight_dtype(model: nn.Module) -> torch.dtype:
    """Return the type of a model's weights: of the first that is floating point."""
    types = (tensor.dtype for tensor in model.parameters() if tensor.dtype.is_floating_point)
    return next(types, torch.float32)


def kernel_width(device: str, dtype: torch.dtype) -> int:
    """Return the channels of one block: 16 in half precision on a GPU, else 8."""
    return 16 if device in GPUS and dtype in _HALVES else 8


def default_multiple(model: nn.Module, widths: Iterable[int]) -> int:
    """Return what `round_to` is where nobody says it: 1, on a GPU a block of its kernels.

    widths: channels of the layers that are pruned. A model whose widest layer has fewer than eight such blocks gets the
    largest power of two that fits so often.
    """
    device = device_type(model)
    if device not in GPUS:
        return 1
    fitting = max(max(widths, default=1) // _SHARE, 1)
    return min(kernel_width(device, weight_dtype(model)), 1 << (fitting.bit_length() - 1))


def block_of(size: int, kernel: int) -> int:
    """Return the block in which an axis of `size` is measured: a kernel's, of a narrow axis a power of two within a quarter.

    >>> [block_of(size, 16) for size in (3, 16, 24, 64, 100)]
    [1, 4, 4, 16, 16]
    """
    return min(kernel, 1 << (max(size // 4, 1).bit_length() - 1))
