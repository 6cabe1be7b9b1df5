"""What a layer's result is added to: where the layer is fitted, it can make up for what has gone wrong there as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from torchthin.graph.operators import ADDITIONS, BATCH_NORMS, VIEWS
from torchthin.graph.opgraph import Op, OpGraph
from torchthin.recovery.layers import products


@dataclass(frozen=True)
class Residual:
    """What the result of a product is added to."""

    source: int
    """Op that gives it."""
    norm: Norm | None
    """The BatchNorm that the result passes through before, if any."""


@dataclass(frozen=True)
class Norm:
    """What a BatchNorm multiplies with, by the names of its tensors."""

    weight: str | None
    variance: str
    epsilon: float

    def factor(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the factor of every channel."""
        deviation = (tensors[self.variance] + self.epsilon).sqrt()
        weight = torch.ones_like(deviation) if self.weight is None else tensors[self.weight].detach()
        return weight / deviation


def residuals(graph: OpGraph) -> Mapping[int, Residual]:
    """Return, by their numbers, the products whose only use is a sum with an activation, also after a BatchNorm.

    Only activations that exist before the product runs and have its rows and columns count.
    """
    found = {}
    for number, op in enumerate(products(graph)):
        norm = _norm(graph, op)
        addition = _addition(graph, op if norm is None else norm[0])
        source = None if addition is None else _other(graph, op, *addition)
        if source is not None and 0 <= source.index < op.index:
            found[number] = Residual(source.index, None if norm is None else norm[1])
    return found


def _norm(graph: OpGraph, op: Op) -> tuple[Op, Norm] | None:
    """Return the BatchNorm that alone takes the result of a product, in evaluation mode."""
    users = graph.users.get(op.results[0], [])
    if len(users) != 1 or users[0].name not in BATCH_NORMS or users[0].arguments.get("training"):
        return None
    given = {name: users[0].value(name) for name in ("weight", "running_var")}
    names = {name: None if value is None else graph.names.get(value) for name, value in given.items()}
    variance = names["running_var"]
    if variance is None or (given["weight"] is not None and names["weight"] is None):
        return None
    epsilon = users[0].arguments.get("eps", users[0].arguments.get("epsilon"))
    return (users[0], Norm(names["weight"], variance, float(epsilon))) if isinstance(epsilon, float) else None


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
