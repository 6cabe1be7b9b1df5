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


def routed_importance(
    model: nn.Module, sites: Iterable[Experts], batches: Iterable[Inputs]
) -> dict[str, FloatArray]:
    """Return the scores of the experts of routers by the names of their groups, shape (experts,), higher = keep.

    A router whose block is not called as a module has none.

    Args:
        model: the dense model, left as it is.
        sites: its routers.
        batches: calibration data, on which the model runs once.
    """
    copy = clone(model, share)
    sums = {site.group.name: _Sums(site) for site in sites}
    handles = [
        copy.get_submodule(item.experts.block).register_forward_pre_hook(item.add, with_kwargs=True)
        for item in sums.values()
    ]
    try:
        with evaluation_mode(copy):
            for batch in batches:
                call(copy, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: item.mean for name, item in sums.items() if item.called}


class _Sums:
    """What the experts of one router contribute to the tokens of all calls, and to how many tokens each of them does."""

    def __init__(self, experts: Experts) -> None:
        self.experts, self.called = experts, False
        self._total, self._count = np.zeros(experts.size), np.zeros(experts.size)

    @property
    def mean(self) -> FloatArray:
        """Contributions per token; 0 where no token went."""
        return np.divide(self._total, self._count, out=np.zeros_like(self._total), where=self._count > 0)

    def add(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run a copy of a block on what the block is called with, without each expert in turn."""
        self.called = True
        made = clone(block, duplicate)
        whole = output_tensors(made.forward(*args, **kwargs))[0].double()
        for expert in range(self.experts.size):
            parts = expert_tensors(made, self.experts, expert, self.experts.block)
            kept = [part.clone() for part in parts]
            for part in parts:
                part.zero_()
            missing = _norms(whole - output_tensors(made.forward(*args, **kwargs))[0].double())
            for part, values in zip(parts, kept, strict=True):
                part.copy_(values)
            self._total[expert] += float(missing.sum())
            self._count[expert] += int((missing > 0).sum())


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
