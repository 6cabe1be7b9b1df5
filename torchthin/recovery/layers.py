"""Which layers can be refitted: products of activations with one parameter, found in the record of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from torchthin.graph.operators import BATCH_NORMS, CONVOLUTIONS, LAYER_PRODUCTS
from torchthin.graph.opgraph import Op, OpGraph
from torchthin.graph.provenance import made_from, origin, sources

_TRANSPOSITIONS = frozenset({"aten.t", "aten.transpose", "aten.permute"})
"""Of a matrix: each exchanges its two axes."""


@dataclass(frozen=True)
class Layer:
    """A product of activations and a weight, and what can absorb a constant after it."""

    op: int
    """Index of the product in the record."""
    module: str
    weight: str
    """Parameter that the weight is, up to a factor and the order of its two axes."""
    bias: str | None
    """Parameter that is added to the product."""
    mean: str | None = None
    """Running mean of the BatchNorm that consumes the product, of one without bias."""
    axis: int = 0
    """Axis of the weight along which its filters are: the last one where the code multiplies with it as it is, as GPT-2 does."""


def find_layers(graph: OpGraph, model: nn.Module) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return the layers of a recorded run that can be refitted, and for each of the others why it cannot."""
    parameters = {name for name, p in model.named_parameters() if p.is_floating_point()}
    found: list[Layer] = []
    left: list[str] = []
    for op in products(graph):
        weight, bias = _operands(op)
        source = None if weight is None else made_from(graph, weight, parameters)
        added = None if bias is None else made_from(graph, bias, parameters)
        reason = ""
        if weight is None or (source is None and not _is_computed(graph, weight, parameters)):
            continue
        if source is None:
            reason = "its weight is computed from more than one parameter"
        elif op.arguments.get("transposed"):
            reason = "a transposed convolution"
        elif bias is not None and added is None:
            reason = "what is added to it is no parameter"
        if source is None or reason:
            left.append(f"{op.source.module or op.name}: {reason}")
            continue
        found.append(
            Layer(
                op.index,
                op.source.module,
                source,
                added,
                _mean_after(graph, op) if bias is None else None,
                _filter_axis(graph, op, weight),
            )
        )
    uses = [layer.weight for layer in found]
    twice = {name for name in uses if uses.count(name) > 1}
    left += [f"{name}: used more than once" for name in sorted(twice)]
    return tuple(layer for layer in found if layer.weight not in twice), tuple(left)


def _filter_axis(graph: OpGraph, op: Op, weight: int) -> int:
    """Return the axis of the parameter along which the filters of a product are."""
    found = origin(graph, weight)
    if op.name in CONVOLUTIONS or found is None:
        return 0
    turned = sum(step.name in _TRANSPOSITIONS for step, _ in found.path)
    return (turned + 1) % 2


def products(graph: OpGraph) -> Iterator[Op]:
    """Yield the products of the evaluation run in the order in which they run, dead ones too."""
    for op in graph.ops:
        if not op.trained and op.name in LAYER_PRODUCTS:
            yield op


def _operands(op: Op) -> tuple[int | None, int | None]:
    """Return the weight of a product and what is added to it."""
    names = LAYER_PRODUCTS[op.name]
    return op.value(names.weight), op.value(names.bias)


def _is_computed(graph: OpGraph, value: int, parameters: set[str]) -> bool:
    """Whether a parameter has a part in the value, and no input of the model."""
    found = sources(graph, value)
    return found.isdisjoint(graph.inputs) and any(graph.names.get(number) in parameters for number in found)


def _mean_after(graph: OpGraph, op: Op) -> str | None:
    """Return the running mean of the BatchNorm that is the only consumer of the result of `op`."""
    consumers = [consumer for value in op.results for consumer in graph.users.get(value, ())]
    if len(consumers) != 1 or consumers[0].name not in BATCH_NORMS:
        return None
    mean = consumers[0].value("running_mean")
    return None if mean is None else graph.names.get(mean)
