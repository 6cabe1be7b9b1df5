"""How much the experts of a router matter on data: REAP's criterion, measured by leaving each of them out.

Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression" (ICLR 2026): the mean, over the tokens that
are routed to an expert, of the router's weight times the norm of what the expert computes. With an expert's tensors at zero and
the routing as it is, that product is what is missing in the block's result, whatever its code looks like.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchthin.dependency.experts import Experts
from torchthin.graph.clone import clone, duplicate, share, state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.outputs import output_tensors
from torchthin.importance.channels import FloatArray


def routed_importance(model: nn.Module, experts: Experts, batches: Iterable[Inputs]) -> FloatArray | None:
    """Return the score of every expert, shape (experts,), higher = keep; None where the block is not called as a module.

    Args:
        model: the dense model, left as it is.
        experts: of one of its routers.
        batches: calibration data.
    """
    copy = clone(model, share)
    block = clone(copy.get_submodule(experts.block), duplicate)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = copy.get_submodule(experts.block).register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    total, count = np.zeros(experts.size), np.zeros(experts.size)
    try:
        for batch in batches:
            calls.clear()
            with evaluation_mode(copy):
                call(copy, batch)
            if not calls:
                return None
            for args, kwargs in calls:
                _add(block, experts, Inputs(args, kwargs), total, count)
    finally:
        handle.remove()
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


def _add(block: nn.Module, experts: Experts, inputs: Inputs, total: FloatArray, count: FloatArray) -> None:
    """Add what every expert contributes to the tokens of one call, and how many tokens there are to which it does."""
    with evaluation_mode(block):
        whole = output_tensors(call(block, inputs))[0].double()
        for expert in range(experts.size):
            parts = expert_tensors(block, experts, expert, experts.block)
            kept = [part.clone() for part in parts]
            for part in parts:
                part.zero_()
            missing = _norms(whole - output_tensors(call(block, inputs))[0].double())
            for part, values in zip(parts, kept, strict=True):
                part.copy_(values)
            total[expert] += float(missing.sum())
            count[expert] += int((missing > 0).sum())


def expert_tensors(model: nn.Module, experts: Experts, expert: int, path: str = "") -> list[Tensor]:
    """Return the parameters of one expert, parts of stacked ones as views. path: of `model` in the whole one."""
    start = len(f"{path}.") if path else 0
    tensors = dict(state_tensors(model))
    stacked = [tensors[name[start:]].detach()[expert] for name in experts.stacked]
    modules = [model.get_submodule(f"{name}.{expert}"[start:]) for name in experts.lists]
    return [*stacked, *(p.detach() for module in modules for p in module.parameters())]


def _norms(difference: Tensor) -> Tensor:
    """Return the norm for each token."""
    found: Tensor = torch.linalg.vector_norm(difference.flatten(0, -2), dim=-1)
    return found
