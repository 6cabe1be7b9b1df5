"""Which layers can be refitted: products of activations with one parameter, found in the record of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from torchthin.graph.operators import BATCH_NORMS, LAYER_PRODUCTS
from torchthin.graph.opgraph import Op, OpGraph, Ref


@dataclass(frozen=True)
class Layer:
    """A product of activations and a weight, and what can take a constant behind it."""

    number: int
    """Its place among all products of a run."""
    module: str
    weight: str
    """Parameter that the weight is, up to a factor and the order of its two axes."""
    bias: str | None
    """Parameter that is added to the product."""
    mean: str | None = None
    """Buffer whose values a BatchNorm takes away right behind, where there is no bias."""


def find_layers(graph: OpGraph, model: nn.Module) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return the layers of a recorded run that can be refitted, and for each of the others why it cannot."""
    names = {number: name for name, number in graph.state.items()}
    parameters = {name for name, p in model.named_parameters() if p.is_floating_point()}
    origins = _Origins(graph, names, parameters)
    found: list[Layer] = []
    left: list[str] = []
    for number, op in enumerate(products(graph)):
        weight, bias = _operands(op)
        if weight is None:
            continue
        source = origins.of(weight)
        if source is None:
            if origins.touched(weight):
                left.append(
                    f"{op.source.module or op.name}: its weight is computed from more than one parameter"
                )
            continue
        if op.arguments.get("transposed"):
            left.append(f"{op.source.module or op.name}: a transposed convolution")
            continue
        added = None if bias is None else origins.of(bias)
        if bias is not None and added is None:
            left.append(f"{op.source.module or op.name}: what is added to it is no parameter")
            continue
        found.append(
            Layer(
                number,
                op.source.module,
                source,
                added,
                _mean_behind(graph, op, names) if bias is None else None,
            )
        )
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
    """Follows values back to the one parameter of their size that they are made of."""

    def __init__(self, graph: OpGraph, names: Mapping[int, str], parameters: set[str]) -> None:
        self._makers = {ref.value: op for op in graph.ops for ref in op.outputs if ref is not None}
        self._names, self._parameters, self._values = names, parameters, graph.values
        self._inputs = set(graph.inputs)

    def of(self, ref: Ref) -> str | None:
        """Return the parameter, or None where there is none, more than one, or an input of the model has a part."""
        found = self._sources(ref)
        size = _size(self._values[ref.value].shape)
        alike = {name for number, name in found.items() if name and _size(self._values[number].shape) == size}
        large = {number for number in found if _size(self._values[number].shape) > 1 and not found[number]}
        return alike.pop() if len(alike) == 1 and not large else None

    def touched(self, ref: Ref) -> bool:
        """Whether a parameter has a part in the value, and no input of the model."""
        found = self._sources(ref)
        return any(found.values()) and not self._inputs & found.keys()

    def _sources(self, ref: Ref) -> dict[int, str]:
        """Return the values without a maker behind a value, with the name of each that is a parameter, else ''."""
        found: dict[int, str] = {}
        waiting, seen = [ref.value], set[int]()
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            name = self._names.get(value, "")
            maker = self._makers.get(value)
            if name in self._parameters or maker is None:
                found[value] = name if name in self._parameters else ""
                continue
            waiting += [ref.value for ref in maker.inputs()]
        return found


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _mean_behind(graph: OpGraph, op: Op, names: Mapping[int, str]) -> str | None:
    """Return the running mean of the BatchNorm that alone reads the result of `op`."""
    made = op.outputs[0]
    readers = [reader for reader in graph.ops if not reader.trained and made in tuple(reader.inputs())]
    if made is None or len(readers) != 1 or readers[0].name not in BATCH_NORMS:
        return None
    mean = readers[0].arguments.get("running_mean")
    return names.get(mean.value) if isinstance(mean, Ref) else None
