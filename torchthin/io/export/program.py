"""torch.export: a model as a program, and a program as bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from torchthin.errors import InputError, one_line
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs

Run = Callable[[Inputs], Any]
"""Runs what was written on inputs and returns its outputs."""


def program_of(model: nn.Module, inputs: Inputs, *, dynamic_batch: bool) -> Any:
    """Return ``torch.export.export`` of a model in evaluation mode.

    Args:
        model: in evaluation mode.
        inputs: an example; with `dynamic_batch`, of two samples or more, since torch takes a size of 1 as fixed.
        dynamic_batch: whether the first axis of every input may have any size.

    Raises:
        InputError: torch.export cannot follow the model's code, or its code fixes the batch size.
    """
    shapes: Any = None
    if dynamic_batch:
        batch = {0: torch.export.Dim("batch")}
        given = (*inputs.args, *(inputs.kwargs or {}).values())
        if len(inputs.kwargs or {}) and not inputs.args:
            shapes = {name: _per_tensor(value, batch) for name, value in (inputs.kwargs or {}).items()}
        else:
            shapes = tuple(_per_tensor(value, batch) for value in given)
    try:
        with evaluation_mode(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            return torch.export.export(
                model, inputs.args, dict(inputs.kwargs or {}), dynamic_shapes=shapes, strict=False
            )
    except Exception as error:  # whatever torch or the user's code raises
        cure = " Its code may fix the batch size: try without the dynamic batch." if dynamic_batch else ""
        raise InputError(
            f"torch.export cannot take the model ({type(model).__name__}): {one_line(error)}.{cure}"
        ) from error


def _per_tensor(value: Any, batch: dict[int, Any]) -> Any:
    return tree_map(lambda leaf: dict(batch) if isinstance(leaf, Tensor) and leaf.dim() else None, value)


def program_bytes(program: Any) -> bytes:
    """Return what ``torch.export.save`` writes."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def run_program(content: bytes) -> Run:
    """Return what runs the content of a ``.pt2`` file with torch alone."""
    module = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: Inputs) -> Any:
        with torch.no_grad():
            return module(*inputs.args, **dict(inputs.kwargs or {}))

    return run
