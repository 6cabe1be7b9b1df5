"""How far a model's outputs are from another's, without labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.graph.evaluation_mode import quiet
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.outputs import output_tensors


def output_distance(wanted: Any, got: Any) -> Tensor:
    """Return the mean over all floating outputs of the mean squared error, each in units of the wanted one's variance.

    0: equal; 1: no better than the mean of every entry over the inputs. Both are outputs of a model, of any nesting.

    Raises:
        InputError: no output is floating point, or their shapes differ.
    """
    pairs = [
        (a, b)
        for a, b in zip(output_tensors(wanted), output_tensors(got), strict=False)
        if a.is_floating_point() and a.shape == b.shape and a.numel()
    ]
    if not pairs:
        raise InputError("The outputs cannot be compared: none is floating point, or their shapes differ.")
    parts = []
    for a, b in pairs:
        centred = a - a.mean(0, keepdim=True) if a.dim() and a.shape[0] > 1 else a - a.mean()
        variance = centred.square().mean()
        if float(variance) > 0:
            parts.append((a.to(b.dtype) - b).square().mean() / variance.to(b.dtype))
    return torch.stack(parts).mean() if parts else pairs[0][1].sum() * 0.0


def distance(dense: nn.Module, model: nn.Module, inputs: Inputs) -> float:
    """Return how far `model` is from `dense` on one batch, both in evaluation mode; see `output_distance`."""
    with quiet(dense):
        wanted = call(dense, inputs)
    with quiet(model):
        return float(output_distance(wanted, call(model, inputs)))
