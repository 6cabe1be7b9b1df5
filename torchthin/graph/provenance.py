"""Which parameter or buffer a value comes from: the only place that answers it.

`origin` follows one tensor through ops that move or change it, and knows the way. `sources` collects everything that a value is
computed from, through any ops; `made_from` picks the one parameter among these that the value stands for.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from math import prod

from torchthin.graph.operators import MOVES
from torchthin.graph.opgraph import Op, OpGraph


@dataclass(frozen=True)
class Origin:
    """The tensor of the model that a value is, is a part of, or is computed from."""

    name: str
    """Parameter or buffer."""
    path: tuple[tuple[Op, int], ...]
    """The ops from the tensor to the value, each with the value that it hands on."""


def origin(graph: OpGraph, value: int) -> Origin | None:
    """Return where a value comes from, None where several tensors have an equal part in it.

    Every op on the way moves the numbers of one tensor, or has one argument of the shape of its result (or of this shape with its
    axes in another order).
    """
    path: list[tuple[Op, int]] = []
    met = {value}
    while value not in graph.names:
        op = graph.producer.get(value)
        source = None if op is None else _main_argument(graph, op, value)
        if op is None or source is None or source in met:
            return None
        path.append((op, value))
        met.add(source)
        value = source
    return Origin(graph.names[value], tuple(reversed(path)))


def _main_argument(graph: OpGraph, op: Op, result: int) -> int | None:
    """Return the argument that the result is made of."""
    arguments = list(dict.fromkeys(op.reads))
    if op.name not in MOVES:
        shape = graph.values[result].shape
        same = [value for value in arguments if graph.values[value].shape == shape]
        if len(same) == 1:
            return same[0]
        arguments = [value for value in arguments if sorted(graph.values[value].shape) == sorted(shape)]
    return arguments[0] if len(arguments) == 1 else None


def sources(graph: OpGraph, value: int) -> frozenset[int]:
    """Return the parameters, buffers, inputs and constants that a value is computed from, as value numbers."""
    found: set[int] = set()
    waiting, seen = [value], {value}
    while waiting:
        number = waiting.pop()
        op = graph.producer.get(number)
        if number in graph.names or op is None:
            found.add(number)
            continue
        waiting += [argument for argument in op.reads if argument not in seen]
        seen.update(op.reads)
    return frozenset(found)


def made_from(graph: OpGraph, value: int, parameters: Container[str]) -> str | None:
    """Return the parameter that a value is, up to the order of its axes and whatever small tensors it is scaled with.

    Args:
        graph: the record.
        value: a value's number.
        parameters: names that count; a buffer is not among them.

    Returns:
        the one parameter of the value's size among its sources; None where there is none, more than one, or where another
        source that is no parameter (an input, a buffer, a constant) has more than one number.
    """
    found: set[str] = set()
    size = prod(graph.values[value].shape)
    for number in sources(graph, value):
        name, own = graph.names.get(number), prod(graph.values[number].shape)
        if name is not None and name in parameters:
            found |= {name} if own == size else set()
        elif own > 1:
            return None
    return found.pop() if len(found) == 1 else None
