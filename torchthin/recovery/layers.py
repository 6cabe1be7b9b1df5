"""Which layers can be refitted: products of activations with one parameter, found in the record of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from torchthin.graph.operators import BATCH_NORMS, LAYER_PRODUCTS
from torchthin.graph.opgraph import Op, OpGraph, Ref


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
    """Running mean of the BatchNorm that consumes the product, where there is no bias."""


def find_layers(graph: OpGraph, model: nn.Module) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return the layers of a recorded run that can be refitted, and for each of the others why it cannot."""
    names = {number: name for name, number in graph.state.items()}
    parameters = {name for name, p in model.named_parameters() if p.is_floating_point()}
    origins = _Origins(graph, names, parameters)
    found: list[Layer] = []
    left: list[str] = []
    for op in products(graph):
        weight, bias = _operands(op)
        source = None if weight is None else origins.of(weight)
        added = None if bias is None else origins.of(bias)
        reason = ""
        if weight is None or (source is None and not origins.touched(weight)):
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
        mean = _mean_after(graph, op, names) if bias is None else None
        found.append(Layer(op.index, op.source.module, source, added, mean))
    uses = [layer.weight for layer in found]
    twice = {name for name in uses if uses.count(name) > 1}
    left += [f"{name}: used more than once" for name in sorted(twice)]
    return tuple(layer for layer in found if layer.weight not in twice), tuple(left)


def products(graph: OpGraph) -> Iterator[Op]:
    """Yield the products of the evaluation run in the order in which they run, dead ones too."""
    for op in graph.ops:
        if not op.trained and op.name in LAYER_PRODUCTS:
            yield op


def _operands(op: Op) -> tuple[Ref | None, Ref | None]:
    """Return the weight of a product and what is added to it."""
    _, *names = LAYER_PRODUCTS[op.name]
    weight, bias = (op.arguments.get(name or "") for name in names)
    return weight if isinstance(weight, Ref) else None, bias if isinstance(bias, Ref) else None


class _Origins:
    """Follows values back to the one parameter of their size that they are computed from."""

    def __init__(self, graph: OpGraph, names: Mapping[int, str], parameters: set[str]) -> None:
        self._producers = {ref.value: op for op in graph.ops for ref in op.outputs if ref is not None}
        self._names, self._parameters = names, parameters
        self._sizes = [prod(value.shape) for value in graph.values]
        self._inputs = set(graph.inputs)

    def of(self, ref: Ref) -> str | None:
        """Return the parameter, or None where there is none, more than one, or an input of the model has a part."""
        found = self._sources(ref)
        size = self._sizes[ref.value]
        alike = {name for number, name in found.items() if name and self._sizes[number] == size}
        others = [number for number, name in found.items() if self._sizes[number] > 1 and not name]
        return alike.pop() if len(alike) == 1 and not others else None

    def touched(self, ref: Ref) -> bool:
        """Whether a parameter has a part in the value, and no input of the model."""
        found = self._sources(ref)
        return any(found.values()) and not self._inputs & found.keys()

    def _sources(self, ref: Ref) -> dict[int, str]:
        """Return the values without a producer from which a value comes, with the name of each that is a parameter, else ''."""
        found: dict[int, str] = {}
        waiting, seen = [ref.value], set[int]()
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            name = self._names.get(value, "")
            producer = self._producers.get(value)
            if name in self._parameters or producer is None:
                found[value] = name if name in self._parameters else ""
                continue
            waiting += [ref.value for ref in producer.inputs()]
        return found


def _mean_after(graph: OpGraph, op: Op, names: Mapping[int, str]) -> str | None:
    """Return the running mean of the BatchNorm that is the only consumer of the result of `op`."""
    result = op.outputs[0]
    consumers = [other for other in graph.ops if not other.trained and result in tuple(other.inputs())]
    if result is None or len(consumers) != 1 or consumers[0].name not in BATCH_NORMS:
        return None
    mean = consumers[0].arguments.get("running_mean")
    return names.get(mean.value) if isinstance(mean, Ref) else None
