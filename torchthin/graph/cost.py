"""What a model costs: multiply-accumulates of one forward pass, parameters, bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.flop_counter import flop_registry

from torchthin.graph.clone import clone, share
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import CountingMode


@dataclass(frozen=True)
class Cost:
    """Cost of a model."""

    parameters: int
    parameter_bytes: int
    macs: int
    """Multiply-accumulates of convolutions and matrix products in one forward pass (1 MAC = 2 FLOPs)."""


class _FlopMode(CountingMode):
    """Adds up what torch's formulas say of every op.

    Torch's own ``FlopCounterMode`` imports its compiler at the first op, which costs seconds, and counts for every module.
    """

    flops = 0

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        formula: Any = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def measure(model: nn.Module, inputs: Inputs) -> Cost:
    """Count what one forward pass on `inputs` costs, by torch's formulas for FLOPs; the model is left as it is."""
    counter = _FlopMode()
    copy = clone(model, lambda name, tensor: share(name, tensor).detach())
    with evaluation_mode(copy, disposable=True), counter:
        call(copy, inputs)
    parameters = list(model.parameters())
    return Cost(
        sum(p.numel() for p in parameters),
        sum(p.numel() * p.element_size() for p in parameters),
        counter.flops // 2,
    )
