"""What a model costs: multiply-accumulates of one forward pass, parameters, bytes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.flop_counter import flop_registry

from torchthin.graph.clone import clone, share
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.fake import ReadGuard
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
        result = self.compute(func, args, kwargs)
        formula: Any = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def measure(model: nn.Module, inputs: Inputs) -> Cost:
    """Count what one forward pass on `inputs` costs, by torch's formulas for FLOPs; the model is left as it is.

    The pass runs without arithmetic, unless the model's code asks for numbers.
    """
    try:
        counter = _counted(model, inputs, fake=True)
    except Exception:  # whatever the user's code raises: it may go on where there are numbers
        counter = _counted(model, inputs, fake=False)
    parameters = list(model.parameters())
    return Cost(
        sum(p.numel() for p in parameters),
        sum(p.numel() * p.element_size() for p in parameters),
        counter.flops // 2,
    )


def _counted(model: nn.Module, inputs: Inputs, *, fake: bool) -> _FlopMode:
    counter = _FlopMode(fake=fake)
    copy = clone(model, lambda name, tensor: share(name, tensor).detach())
    with evaluation_mode(copy, disposable=True), ReadGuard() if fake else nullcontext(), counter:
        call(copy, inputs)
    return counter
