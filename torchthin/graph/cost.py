"""What a model costs: multiply-accumulates of one forward pass, parameters, bytes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchthin.graph.clone import clone, share
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call


@dataclass(frozen=True)
class Cost:
    """Cost of a model."""

    parameters: int
    parameter_bytes: int
    macs: int
    """Multiply-accumulates of convolutions and matrix products in one forward pass (1 MAC = 2 FLOPs)."""


def measure(model: nn.Module, inputs: Inputs) -> Cost:
    """Count what one forward pass on `inputs` costs (torch.utils.flop_counter; the model is left as it is)."""
    counter = FlopCounterMode(display=False)
    copy = clone(model, lambda name, tensor: share(name, tensor).detach())
    copy.requires_grad_(False)  # torch's counter fails on a parameter that is the argument of a module
    with evaluation_mode(copy):
        copy.eval()
        with counter:
            call(copy, inputs)
    parameters = list(model.parameters())
    return Cost(
        sum(p.numel() for p in parameters),
        sum(p.numel() * p.element_size() for p in parameters),
        counter.get_total_flops() // 2,
    )
