"""Numbers that the model's code computes from a size, such as attention's ``q.shape[-1] ** -0.5``.

When heads get narrower such a number changes, and with it what the softmax sees. Where what the number multiplies comes
from a layer by linear ops alone, the layer's weights are multiplied by the ratio of the old number and the new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.dependency.producers import producers
from torchthin.dependency.propagate import Labels
from torchthin.dependency.registry import Contraction
from torchthin.graph.operators import LINEAR_ELEMENTWISE, MOVES, VIEWS, invoke
from torchthin.graph.opgraph import Op, Ref
from torchthin.graph.provenance import Origin, origin
from torchthin.thinning.recipe import Recipe, cut

_FAR = 1 << 40
"""More than any vector has entries."""

Rows = npt.NDArray[np.int64]
_Path = Sequence[tuple[Op, int]]
"""Ops one after the other, each with the value that it hands on."""


@dataclass(frozen=True)
class ScaledRows:
    """Some indices of one axis of a tensor, full size, which are multiplied by the factor."""

    name: str
    axis: int
    rows: Rows


@dataclass(frozen=True)
class Scaling:
    """Multiply rows of a layer's weight, and of what is added to what they make, by a factor."""

    op: Op
    """The op whose number changed."""
    weight: ScaledRows
    vectors: tuple[ScaledRows, ...]
    """The layer's bias, and vectors that are added on the way."""
    factor: float
    between: frozenset[int]
    """Indices of ops that see the factor and not yet the number that cancels it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that are multiplied."""
        return (self.weight.name, *(vector.name for vector in self.vectors))


def find_scalings(
    labels: Labels, before: Mapping[int, float], after: Mapping[int, float], saved: Set[str]
) -> tuple[Scaling, ...]:
    """Find the layers to scale where numbers changed.

    Args:
        labels: the labelled record.
        before: op index -> what the full-size model multiplies with.
        after: the same of the thinned model.
        saved: names of the tensors that a checkpoint holds; others cannot be scaled.
    """
    changed = {
        index: number / after[index]
        for index, number in before.items()
        if after.get(index) and number and not math.isclose(number, after[index], rel_tol=1e-6)
    }
    if not changed:
        return ()
    search = _LayerSearch(labels)
    found = (search.scaling(op, changed[op.index]) for op in labels.graph.ops if op.index in changed)
    return tuple(item for item in found if item is not None and saved >= set(item.names))


class _LayerSearch:
    """Walks from an op whose number changed back to the layer that makes what it multiplies."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.graph = labels.graph
        self.values = labels.graph.values

    def scaling(self, op: Op, factor: float) -> Scaling | None:
        value = op.value("self")
        path: list[tuple[Op, int]] = []
        while value is not None and value in self.graph.producer:
            producer = self.graph.producer[value]
            contraction = self.labels.contractions.get(producer.index)
            if contraction is not None:
                weight = origin(self.graph, contraction.weight)
                if weight is not None:
                    return self._of_layer(op, factor, producer, contraction, weight, path[::-1])
            elif producer.name not in MOVES | LINEAR_ELEMENTWISE:
                return None
            path.append((producer, value))
            value = contraction.data if contraction is not None else self._main(producer)
        return None

    def _main(self, op: Op) -> int:
        """Return the argument that comes from the model's input, else the first."""
        return next((value for value in op.reads if value in self.labels.from_input), op.reads[0])

    def _of_layer(
        self,
        op: Op,
        factor: float,
        layer: Op,
        contraction: Contraction,
        weight: Origin,
        path: _Path,
    ) -> Scaling | None:
        axis = producers(self.labels).get(weight.name)
        if axis is None:
            return None
        number, made = self.graph.state[weight.name], layer.results[0]
        filters = _distinct(_moved(_along(self.values[number].shape, axis), number, weight.path))
        shape = self.values[made].shape
        if filters.size != shape[contraction.out_axis]:
            return None
        rows = _distinct(_moved(_along(shape, contraction.out_axis), made, path))
        vectors = self._vectors(layer, contraction, [(layer, made), *path], rows)
        between = self._between([weight.name, *(vector.name for vector in vectors)], op)
        return Scaling(op, ScaledRows(weight.name, axis, filters[rows]), vectors, factor, between)

    def _vectors(
        self, layer: Op, contraction: Contraction, path: _Path, rows: Rows
    ) -> tuple[ScaledRows, ...]:
        """Find the vectors of the model that are added to those rows of what comes from the layer."""
        made, names, found = path[0][1], list[str](), list[Tensor]()
        shape = self.values[made].shape
        numbers, value = _along(shape, contraction.out_axis), made
        wanted = torch.zeros(shape[contraction.out_axis], dtype=torch.bool)
        wanted[torch.from_numpy(rows)] = True
        for op, following in path:
            for item in self._added(op, layer, contraction):
                own = self._numbered(item, names) if item not in self.labels.from_input else None
                if own is not None:
                    if op is layer:  # a bias lies along the output channels, wherever those are
                        own = own.view([
                            -1 if axis == contraction.out_axis % len(shape) else 1 for axis in range(len(shape))
                        ])  # fmt: skip
                    entries = own.expand(self.values[following].shape)
                    hit = wanted[numbers].expand(entries.shape)
                    found.append(entries[hit])
            if op is not layer:
                if op.index in self.labels.contractions:
                    break
                numbers, value = _moved(numbers, value, [(op, following)]), following
        scaled = torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)
        by_name = (
            (name, _distinct(scaled[scaled // _FAR == number] % _FAR)) for number, name in enumerate(names)
        )
        return tuple(ScaledRows(name, 0, own) for name, own in by_name if own.size)

    def _added(self, op: Op, layer: Op, contraction: Contraction) -> list[int]:
        """Return what an op adds: the layer its bias."""
        if op is layer:
            bias = op.value(contraction.bias)
            return [] if bias is None else [bias]
        return list(op.reads) if op.name in {"aten.add", "aten.sub"} else []

    def _numbered(self, value: int, names: list[str]) -> Tensor | None:
        """Return for every entry of a value which entry of the model's vectors it is; None: it is not made of vectors alone.

        An entry is told by the position of the vector's name in `names`, which grows, times `_FAR`, plus its index.
        """
        name = self.graph.names.get(value)
        if name is not None:
            shape = self.values[value].shape
            if len(shape) != 1:
                return None
            names += [name] if name not in names else []
            return torch.arange(shape[0]) + names.index(name) * _FAR
        op = self.graph.producer.get(value)
        if op is None or op.name not in MOVES | {"aten.cat"}:
            return None
        made = {item: self._numbered(item, names) for item in op.reads}
        if any(tensor is None for tensor in made.values()):
            return None
        return _carried_out(op, value, {name: _exchanged(item, made) for name, item in op.arguments.items()})

    def _between(self, names: Iterable[str], last: Op) -> frozenset[int]:
        """Return the ops before `last` that compute something from these tensors, and those that compute its number."""
        state, ops = self.graph.state, self.graph.ops
        seen = {state[name] for name in names if name in state}
        found = set()
        for op in ops:
            if op.index < last.index and not seen.isdisjoint(op.reads):
                seen.update(op.results)
                found.add(op.index)
        number = last.value("other")
        wanted = set() if number is None else {number}
        for op in reversed(ops):
            if not wanted.isdisjoint(op.results):
                wanted.update(op.reads)
                found.add(op.index)
        return frozenset(found)


def _distinct(numbers: Tensor) -> Rows:
    """Return the numbers that occur, in order: they are indices, so counting beats sorting."""
    return np.flatnonzero(np.bincount(numbers.flatten().numpy()))


def _along(shape: Sequence[int], axis: int) -> Tensor:
    """Return a tensor of that shape whose entries are their index along one axis."""
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    return torch.arange(shape[axis]).view(sizes).expand(tuple(shape))


def _exchanged(argument: Any, tensors: Mapping[int, Tensor | None]) -> Any:
    if isinstance(argument, (list, tuple)):
        return [_exchanged(item, tensors) for item in argument]
    return tensors.get(argument.value, argument) if isinstance(argument, Ref) else argument


def _carried_out(op: Op, value: int, arguments: Mapping[str, Any]) -> Tensor:
    """Run a move on other tensors and return what stands for one of its results.

    The tensors are laid out in memory otherwise than those that the code had, so views may have to copy.
    """
    if op.name in VIEWS:
        return arguments["self"].reshape(arguments["size"])  # type: ignore[no-any-return]
    result = invoke(op.target, arguments)
    position = next(i for i, ref in enumerate(op.outputs) if ref is not None and ref.value == value)
    found: Tensor = result[position] if isinstance(result, (list, tuple)) else result
    return found


def _moved(numbers: Tensor, value: int, path: _Path) -> Tensor:
    """Let row numbers go where the rows go, up to the first op that sums."""
    for op, following in path:
        if op.name in MOVES:
            given = {name: _exchanged(item, {value: numbers}) for name, item in op.arguments.items()}
            numbers = _carried_out(op, following, given)
        elif op.name not in LINEAR_ELEMENTWISE:
            break
        value = following
    return numbers


class ScaledTensors(Mapping[str, Tensor]):
    """Tensors that have other values after thinning, by name; those that are scaled are made as they are asked for."""

    def __init__(
        self,
        scalings: Iterable[Scaling],
        recipe: Recipe,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
    ) -> None:
        """Take note of what is to be made.

        Args:
            scalings: what is multiplied.
            recipe: what thins the model; it may add biases, which are among `values`.
            tensors: full-size tensors by name.
            values: tensors that absorbed a constant already, thinned.
        """
        self._recipe, self._tensors = recipe, tensors
        self._values: dict[str, Tensor | None] = dict(values)
        self._factors: dict[str, list[tuple[ScaledRows, ScaledRows, float]]] = {}
        for scaling in scalings:
            weight = scaling.weight
            added = f"{weight.name.rpartition('.')[0]}.bias"
            new = (ScaledRows(added, 0, weight.rows),) if added in recipe.added else ()
            for item in (weight, *scaling.vectors, *new):
                self._values.setdefault(item.name, None)
                self._factors.setdefault(item.name, []).append((item, weight, scaling.factor))

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._values[name]
        if tensor is None:
            tensor = cut(self._tensors[name].detach(), self._recipe.keep.get(name, {}))
        for item, weight, factor in self._factors.get(name, ()):
            tensor = self._scaled(tensor, item, weight, factor)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._values  # what a mapping does without this makes the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _scaled(self, tensor: Tensor, item: ScaledRows, weight: ScaledRows, factor: float) -> Tensor:
        # rows of a bias that the recipe adds are those that are kept of the weight
        own = item if item.name in self._tensors else weight
        cuts = self._recipe.keep.get(own.name, {})
        kept = cuts.get(own.axis, tuple(range(tensor.shape[item.axis])))
        hit = torch.from_numpy(np.isin(np.asarray(kept), item.rows)).to(tensor.device)
        shape = [1] * tensor.dim()
        shape[item.axis] = -1
        factors = torch.ones(hit.shape, dtype=torch.float64, device=tensor.device)
        factors[hit] = factor
        return (tensor.double() * factors.view(shape)).to(tensor.dtype)
