"""Which rows of a linear layer matter: tokens that no output depends on, such as padding, are left out of fits and statistics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.clone import clone
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.operators import CONVOLUTIONS, LAYER_PRODUCTS
from torchthin.graph.opgraph import OpGraph
from torchthin.graph.outputs import output_tensors

MATRIX_PRODUCTS = LAYER_PRODUCTS.keys() - CONVOLUTIONS
PART = 8
"""Inputs whose gradients are taken at once."""


def used_rows(model: nn.Module, modules: Collection[str], inputs: Inputs) -> Mapping[str, Tensor]:
    """Return which rows of the results of modules have an effect on the outputs, for modules where some have none.

    A row has none when the gradient of the outputs, times random signs, is zero in all its columns. Where it cannot be told
    (no gradients, a module called twice), and where all rows of the first inputs matter, nothing is returned.

    Args:
        model: left as it is.
        modules: paths of linear layers.
        inputs: one batch.

    Returns:
        path -> bool (rows,), the rows in the order of the flattened result.
    """
    copy = clone(model, lambda _, t: t.detach().requires_grad_(t.is_floating_point()))
    found: dict[str, list[Tensor]] = {}
    try:
        for number, part in enumerate(in_parts(inputs, PART)):
            masks = _of_part(copy, modules, part)
            if number == 0 and all(bool(mask.all()) for mask in masks.values()):
                return {}
            for path, mask in masks.items():
                found.setdefault(path, []).append(mask)
    except Exception:  # whatever the user's code raises where gradients are asked for
        return {}
    count = max(map(len, found.values()), default=0)
    joined = {path: torch.cat(masks) for path, masks in found.items() if len(masks) == count}
    return {path: mask for path, mask in joined.items() if bool(mask.any()) and not bool(mask.all())}


def linear_modules(graph: OpGraph, model: nn.Module) -> frozenset[str]:
    """Return the paths of the modules in which matrices are multiplied."""
    paths = {op.source.module for op in graph.ops if op.name in MATRIX_PRODUCTS}
    return frozenset(path for path, _ in model.named_modules() if path and path in paths)


def in_parts(inputs: Inputs, count: int) -> list[Inputs]:
    """Return a batch in parts of so many inputs; the first axis of every tensor counts the inputs, else it stays whole."""
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in inputs.tensors()}
    size = sizes.pop()
    if sizes or size <= count:
        return [inputs]
    return [inputs.map(lambda t, low=low: t[low : low + count]) for low in range(0, size, count)]  # type: ignore[misc]


def _of_part(copy: nn.Module, modules: Collection[str], part: Inputs) -> dict[str, Tensor]:
    """Return which rows matter in one call."""
    results: dict[str, list[Tensor]] = {}
    hooks = [
        copy.get_submodule(path).register_forward_hook(partial(_note, results, path)) for path in modules
    ]
    try:
        with evaluation_mode(copy), torch.enable_grad():
            outputs = [out for out in output_tensors(call(copy, part)) if out.requires_grad]
            random = torch.Generator().manual_seed(0)
            signs = [torch.randint(0, 2, out.shape, generator=random).to(out) * 2 - 1 for out in outputs]
            total = torch.stack([(out * sign).sum() for out, sign in zip(outputs, signs, strict=True)]).sum()
            once = {path: made[0] for path, made in results.items() if len(made) == 1}
            gradients = torch.autograd.grad(total, list(once.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        path: torch.ones(made.shape[:-1], dtype=torch.bool).flatten()
        if gradient is None
        else (gradient != 0).any(-1).flatten().cpu()
        for (path, made), gradient in zip(once.items(), gradients, strict=True)
    }


def _note(results: dict[str, list[Tensor]], path: str, module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.requires_grad:
        results.setdefault(path, []).append(output)
