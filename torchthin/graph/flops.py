"""Multiply-accumulates of one op, by torch's formulas for FLOPs."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

_OUT = next(
    name
    for name in signature(flop_registry[torch.ops.aten.mm], follow_wrapped=False).parameters
    if name.startswith("out")
)
"""What torch's formulas call the result: `out` before 2.4, `out_val` since."""


def flops_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Return the FLOPs of an op that ran, 2 for each multiply-accumulate; 0 of an op that torch has no formula for.

    Torch's own ``FlopCounterMode`` imports its compiler at the first op, which costs seconds, and counts for every module.
    """
    formula: Any = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, **{_OUT: result}))
