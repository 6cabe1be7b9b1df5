"""Numbers that the model's code computes from a size, such as attention's ``q.shape[-1] ** -0.5``.

When heads get narrower such a number changes, and with it the temperature of the softmax. Where what it multiplies comes
from a layer by linear ops alone, the layer's weights take over the ratio of the old number and the new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.dependency.components import producers
from torchthin.dependency.propagate import Labels
from torchthin.dependency.registry import Contraction
from torchthin.graph.opgraph import Op, Ref
from torchthin.thinning.recipe import Recipe, cut
from torchthin.thinning.reference import invoke

_VIEWS = frozenset({"aten.view", "aten._unsafe_view"})
_MOVES = _VIEWS | frozenset({
    "aten.transpose", "aten.permute", "aten.t", "aten.slice", "aten.select",
    "aten.split", "aten.split_with_sizes", "aten.unbind", "aten.expand", "aten.unsqueeze", "aten.squeeze",
    "aten.clone", "aten.alias",
})  # fmt: skip
_FAR = 1 << 40
"""More than any vector has entries."""
_LINEAR = frozenset({"aten.mul", "aten.div", "aten.neg", "aten.add", "aten.sub"})


Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scaled:
    """Some indices of one axis of a tensor, full size, which take the factor."""

    name: str
    axis: int
    rows: Rows


@dataclass(frozen=True)
class Rescale:
    """Multiply rows of a layer's weight, and of what is added to what they make, by a factor."""

    op: Op
    """The op whose number changed."""
    weight: Scaled
    vectors: tuple[Scaled, ...]
    """The layer's bias, and vectors that are added on the way."""
    factor: float
    between: frozenset[int]
    """Indices of ops that see the factor and not yet the number that cancels it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that take the factor."""
        return (self.weight.name, *(vector.name for vector in self.vectors))


def plan_rescales(
    labels: Labels, before: Mapping[int, float], after: Mapping[int, float], saved: Set[str]
) -> tuple[Rescale, ...]:
    """Find the layers that can take over what became of numbers.

    Args:
        labels: the labelled record.
        before: op index -> what the full-size model multiplies with.
        after: the same of the thinned model.
        saved: names of the tensors that a checkpoint holds; others cannot take over anything.
    """
    changed = {
        index: number / after[index]
        for index, number in before.items()
        if after.get(index) and number and not math.isclose(number, after[index], rel_tol=1e-6)
    }
    found = (_rescale(labels, op, changed[op.index]) for op in labels.graph.ops if op.index in changed)
    return tuple(rescale for rescale in found if rescale is not None and saved >= set(rescale.names))


def _rescale(labels: Labels, op: Op, factor: float) -> Rescale | None:
    makers = _makers(labels)
    start = op.arguments.get("self")
    value = start.value if isinstance(start, Ref) else -1
    path: list[tuple[Op, int]] = []
    while value in makers:
        maker = makers[value]
        contraction = labels.contractions.get(maker.index)
        if contraction is not None:
            found = _origin(labels, contraction.weight)
            if found is not None:
                return _at(labels, op, factor, maker, contraction, found, path[::-1])
        elif maker.name not in _MOVES | _LINEAR:
            return None
        path.append((maker, value))
        value = contraction.data if contraction is not None else _main(labels, maker)
    return None


def _makers(labels: Labels) -> dict[int, Op]:
    return {ref.value: op for op in labels.graph.ops for ref in op.outputs if ref is not None}


def _main(labels: Labels, op: Op) -> int:
    """The argument that comes from the model's input, else the first."""
    values = list(op.reads)
    return next((value for value in values if value in labels.from_input), values[0])


def _at(
    labels: Labels,
    op: Op,
    factor: float,
    layer: Op,
    contraction: Contraction,
    found: tuple[str, list[tuple[Op, int]]],
    path: list[tuple[Op, int]],
) -> Rescale | None:
    name, moves = found
    axis = producers(labels).get(name)
    made = layer.outputs[0]
    if axis is None or made is None:
        return None
    values, number = labels.graph.values, labels.graph.state[name]
    filters = np.unique(_moved(_along(values[number].shape, axis), number, moves).numpy())
    shape = values[made.value].shape
    size = shape[contraction.out_axis]
    if filters.size != size:
        return None
    seen = [(layer, made.value), *path]
    wanted = np.unique(_moved(_along(shape, contraction.out_axis), made.value, path).numpy())
    vectors = _vectors(labels, layer, contraction, seen, wanted)
    weight = Scaled(name, axis, filters[wanted])
    names = (name, *(vector.name for vector in vectors))
    return Rescale(op, weight, vectors, factor, _between(labels, names, op))


def _along(shape: Sequence[int], axis: int) -> Tensor:
    """Return a tensor of that shape whose entries are their index along one axis."""
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    return torch.arange(shape[axis]).view(sizes).expand(tuple(shape))


def _origin(labels: Labels, value: int) -> tuple[str, list[tuple[Op, int]]] | None:
    """Return the tensor that a value is, is part of, or is computed from, and the moves that lead from there.

    Ops other than moves must have a single argument of the size of their result.
    """
    reads = {number: name for name, number in labels.graph.state.items()}
    makers, moves = _makers(labels), []
    while value not in reads:
        op = makers.get(value)
        if op is None:
            return None
        sources = list(dict.fromkeys(op.reads))
        if op.name not in _MOVES:
            sizes = sorted(labels.graph.values[value].shape)
            sources = [item for item in sources if sorted(labels.graph.values[item].shape) == sizes]
        if len(sources) != 1:
            return None
        moves.append((op, value))
        value = sources[0]
    return reads[value], moves[::-1]


def _vectors(
    labels: Labels, layer: Op, contraction: Contraction, path: list[tuple[Op, int]], wanted: Rows
) -> tuple[Scaled, ...]:
    """Find the vectors of the model that are added to those rows of what comes from the layer."""
    made, names, found = path[0][1], list[str](), list[Tensor]()
    shape = labels.graph.values[made].shape
    numbers, value = _along(shape, contraction.out_axis), made
    for op, following in path:
        taken = {"aten.add", "aten.sub"} if op is not layer else {layer.name}
        given = list(op.reads) if op.name in taken else []
        given = given if op is not layer else [ref.value for ref in (_bias(op, contraction),) if ref]
        for item in given:
            own = _numbered(labels, item, names) if item not in labels.from_input else None
            if own is not None:
                if op is layer:  # a bias lies along the output channels, wherever those are
                    own = own.view(
                        [-1 if axis == contraction.out_axis % len(shape) else 1 for axis in range(len(shape))]
                    )
                places = own.expand(labels.graph.values[following].shape)
                hit = torch.isin(numbers, torch.from_numpy(wanted)).expand(places.shape)
                found.append(places[hit])
        if op is not layer:
            if labels.contractions.get(op.index) is not None:
                break
            numbers, value = _moved(numbers, value, [(op, following)]), following
    scaled = np.unique(torch.cat(found).numpy()) if found else np.zeros(0, np.int64)
    rows = ((name, scaled[scaled // _FAR == number] % _FAR) for number, name in enumerate(names))
    return tuple(Scaled(name, 0, own) for name, own in rows if own.size)


def _numbered(labels: Labels, value: int, names: list[str]) -> Tensor | None:
    """Return for every entry of a value which entry of the model's vectors it is: number of the name times `_FAR`, plus index.

    None: it is not moved and joined from vectors alone. `names` grows.
    """
    reads = {number: name for name, number in labels.graph.state.items()}
    if value in reads:
        shape = labels.graph.values[value].shape
        if len(shape) != 1:
            return None
        names += [reads[value]] if reads[value] not in names else []
        return torch.arange(shape[0]) + names.index(reads[value]) * _FAR
    op = _makers(labels).get(value)
    if op is None or op.name not in _MOVES | {"aten.cat"}:
        return None
    made = {ref.value: _numbered(labels, ref.value, names) for ref in op.inputs()}
    if any(tensor is None for tensor in made.values()):
        return None
    given = {name: _exchanged(argument, made) for name, argument in op.arguments.items()}
    result = _run(op, given)
    position = next(i for i, ref in enumerate(op.outputs) if ref is not None and ref.value == value)
    found: Tensor = result[position] if isinstance(result, (list, tuple)) else result
    return found


def _exchanged(argument: Any, tensors: Mapping[int, Tensor | None]) -> Any:
    if isinstance(argument, (list, tuple)):
        return [_exchanged(item, tensors) for item in argument]
    return tensors[argument.value] if isinstance(argument, Ref) else argument


def _run(op: Op, given: dict[str, Any]) -> Any:
    """Run a move; tensors are laid out in memory otherwise than those that the code had, so views may have to copy."""
    return given["self"].reshape(given["size"]) if op.name in _VIEWS else invoke(op.target, given)


def _bias(op: Op, contraction: Contraction) -> Ref | None:
    given = op.arguments.get(contraction.bias or "")
    return given if isinstance(given, Ref) else None


def _moved(numbers: Tensor, value: int, path: list[tuple[Op, int]]) -> Tensor:
    """Let row numbers go where the rows go, up to the first op that sums."""
    for op, following in path:
        if op.name in _MOVES:
            given: dict[str, Any] = {
                name: numbers if isinstance(argument, Ref) and argument.value == value else argument
                for name, argument in op.arguments.items()
            }
            result = _run(op, given)
            position = next(
                i for i, ref in enumerate(op.outputs) if ref is not None and ref.value == following
            )
            numbers = result[position] if isinstance(result, (list, tuple)) else result
        elif op.name not in _LINEAR:
            break
        value = following
    return numbers


def _between(labels: Labels, names: Iterable[str | None], last: Op) -> frozenset[int]:
    """Everything that is computed from the layer's parameters before the op, and what computes the op's number."""
    seen = {labels.graph.state[name] for name in names if name in labels.graph.state}
    found = set()
    for op in labels.graph.ops:
        if op.index < last.index and any(ref.value in seen for ref in op.inputs()):
            seen.update(ref.value for ref in op.outputs if ref is not None)
            found.add(op.index)
    number = last.arguments["other"]
    wanted = {number.value} if isinstance(number, Ref) else set()
    for op in reversed(labels.graph.ops):
        if any(ref is not None and ref.value in wanted for ref in op.outputs):
            wanted.update(op.reads)
            found.add(op.index)
    return frozenset(found)


def tempered_tensors(
    rescales: Iterable[Rescale], recipe: Recipe, tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return `values` together with every tensor that takes a factor, thinned and multiplied.

    Args:
        rescales: what is multiplied.
        recipe: what thins the model; it may add biases, which stand in `values`.
        tensors: full-size tensors by name.
        values: tensors that took a constant already, thinned.
    """
    found = dict(values)
    for rescale in rescales:
        weight = rescale.weight
        added = f"{weight.name.rpartition('.')[0]}.bias"
        grown = (Scaled(added, 0, weight.rows),) if added in recipe.added else ()
        for item in (weight, *rescale.vectors, *grown):
            # rows of a bias that the recipe adds are those that stay of the weight
            kept = recipe.keep.get(item.name if item.name in tensors else weight.name, {})
            tensor = found[item.name] if item.name in found else cut(tensors[item.name].detach(), kept)
            axis = item.axis if item.name in tensors else weight.axis
            stay = kept.get(axis, tuple(range(tensor.shape[item.axis])))
            hit = torch.from_numpy(np.isin(np.asarray(stay), item.rows)).to(tensor.device)
            shape = [1] * tensor.dim()
            shape[item.axis] = -1
            factors = torch.ones(hit.shape, dtype=torch.float64, device=tensor.device)
            factors[hit] = rescale.factor
            found[item.name] = (tensor.double() * factors.view(shape)).to(tensor.dtype)
    return found
