"""The numbers that a forward pass multiplies tensors with, such as attention's ``q.shape[-1] ** -0.5``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchthin.graph.operators import operator_name

_POWERS = {"aten.mul": 1, "aten.mul_": 1, "aten.div": -1, "aten.div_": -1}
"""Ops that multiply -> with which power of the number."""


def factor_of(func: Any, args: Sequence[Any], fake: bool) -> float | None:
    """Return the number that an op multiplies a tensor with, if it does.

    NaN where it is a tensor, whose number a run without arithmetic (`fake`) does not know.
    """
    power = _POWERS.get(operator_name(func))
    if power is None or len(args) != 2:
        return None
    number = args[1]
    if isinstance(number, Tensor) and number.dim() == 0 and not number.is_meta:
        number = math.nan if fake else number.item()
    if not isinstance(number, (int, float)) or not number:
        return None
    return float(number) if power == 1 else 1.0 / number
