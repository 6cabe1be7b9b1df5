"""Systems of linear equations: the unknowns of one system hang together, systems beside each other do not."""

from __future__ import annotations

import numpy as np

from torchthin.dependency.dead_rules import ABSENT, LIVE, DeadCall, Emissions, worse
from torchthin.dependency.labels import Axes
from torchthin.dependency.registry import Call, register_op
from torchthin.dependency.rules.elementwise import broadcast


def solved(call: DeadCall) -> Emissions:
    """A right side of zeros is solved by zeros, by any matrix that can be inverted: zeros with a diagonal of ones can."""
    matrix, right = call.of("self"), call.of("B")
    made = worse(right) if call.static("self") else worse(right, LIVE, LIVE)
    singular = (matrix != ABSENT) & ((right == ABSENT) | (not call.arg("unitriangular", False)))
    return np.where(singular, LIVE, made).astype(np.int8)


@register_op("aten.linalg_solve_triangular", dead=solved)
def solve_triangular(call: Call) -> list[Axes]:
    """(..., n, n) and right sides (..., n, k), from the other side (..., k, n): each of the k is a system of its own."""
    matrix, right = call.axes("self"), call.axes("B")
    unknowns = -2 if call.arg("left", True) else -1
    call.freeze_all((*matrix[-2:], right[unknowns]), "the unknowns of a system of equations")
    shape = call.out_shape()
    batch = broadcast(
        call, [(call.shape("self")[:-2], matrix[:-2]), (call.shape("B")[:-2], right[:-2])], shape[:-2]
    )
    return [(*batch, None, right[-1]) if unknowns == -2 else (*batch, right[-2], None)]
