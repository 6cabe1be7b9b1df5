"""What a layer's result is added to: where the layer is fitted, it can make up for what has gone wrong there as well."""

from __future__ import annotations

from collections.abc import Mapping

from torchthin.graph.operators import ADDITIONS, VIEWS
from torchthin.graph.opgraph import Op, OpGraph
from torchthin.recovery.layers import products


def residuals(graph: OpGraph) -> Mapping[int, int]:
    """Return for products whose only use is a sum with an activation: number of the product -> op that gives this activation.

    Only activations that exist before the product runs and have its rows and columns count.
    """
    found = {}
    for number, op in enumerate(products(graph)):
        addition = _addition(graph, op)
        source = None if addition is None else _other(graph, op, *addition)
        if source is not None and 0 <= source.index < op.index:
            found[number] = source.index
    return found


def _addition(graph: OpGraph, op: Op) -> tuple[Op, int] | None:
    """Return the sum that the result of `op` goes into, through views that keep its columns, and as which value."""
    value = op.results[0]
    columns = graph.values[value].shape[-1]
    while True:
        users = graph.users.get(value, [])
        if len(users) != 1 or graph.values[value].shape[-1] != columns:
            return None
        if users[0].name in ADDITIONS:
            return users[0], value
        if users[0].name not in VIEWS:
            return None
        value = users[0].results[0]


def _other(graph: OpGraph, op: Op, addition: Op, value: int) -> Op | None:
    """Return what gives the other summand, where that is of the same shape and added as it is."""
    others = [read for read in addition.reads if read != value]
    same = len(others) == 1 and graph.values[others[0]].shape == graph.values[value].shape
    matrix = len(graph.values[op.results[0]].shape) == 2
    unchanged = matrix or graph.values[op.results[0]].shape == graph.values[value].shape
    plain = addition.arguments.get("alpha", 1) == 1
    source = graph.producer.get(others[0]) if same and unchanged and plain else None
    return source if source is not None and source.results[0] == others[0] else None
