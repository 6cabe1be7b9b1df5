"""Numbers that the model's code computes from a size, such as attention's ``q.shape[-1] ** -0.5``.

When heads get narrower such a number changes, and with it the temperature of the softmax. Where what it multiplies comes
from a layer by linear ops alone, the layer's weights take over the ratio of the old number and the new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.labels.components import producers
from torchthin.labels.propagate import Labels
from torchthin.labels.registry import Contraction
from torchthin.thinning.recipe import Recipe, cut
from torchthin.thinning.reference import invoke
from torchthin.trace.opgraph import Op, Ref

_VIEWS = frozenset({"aten.view", "aten._unsafe_view"})
_MOVES = _VIEWS | frozenset({
    "aten.transpose", "aten.permute", "aten.t", "aten.slice", "aten.select",
    "aten.split", "aten.split_with_sizes", "aten.unbind", "aten.expand", "aten.unsqueeze", "aten.squeeze",
    "aten.clone", "aten.alias",
})  # fmt: skip
_LINEAR = frozenset({"aten.mul", "aten.div", "aten.neg", "aten.add", "aten.sub"})


@dataclass(frozen=True)
class Rescale:
    """Multiply rows of a layer's weight and bias by a factor."""

    op: Op
    """The op whose number changed."""
    weight: str
    axis: int
    bias: str | None
    addends: tuple[str, ...]
    """Vectors that are added on the way, which take the factor throughout."""
    rows: npt.NDArray[np.int64]
    """Full-size indices along `axis` of the weight, and of the bias."""
    factor: float
    between: frozenset[int]
    """Indices of ops that see the factor and not yet the number that cancels it."""


def plan_rescales(
    labels: Labels, before: Mapping[int, float], after: Mapping[int, float]
) -> tuple[Rescale, ...]:
    """Find the layers that can take over what became of numbers.

    Args:
        labels: the labelled record.
        before: op index -> what the full-size model multiplies with.
        after: the same of the thinned model.
    """
    changed = {
        index: number / after[index]
        for index, number in before.items()
        if after.get(index) and number and not math.isclose(number, after[index], rel_tol=1e-6)
    }
    found = (_rescale(labels, op, changed[op.index]) for op in labels.graph.ops if op.index in changed)
    return tuple(rescale for rescale in found if rescale is not None)


def _rescale(labels: Labels, op: Op, factor: float) -> Rescale | None:
    reads = {number: name for name, number in labels.graph.state.items()}
    makers = {ref.value: made for made in labels.graph.ops for ref in made.outputs if ref is not None}
    start = op.arguments.get("self")
    value = start.value if isinstance(start, Ref) else -1
    path: list[tuple[Op, int]] = []
    while value in makers:
        maker = makers[value]
        contraction = labels.contractions.get(maker.index)
        if contraction is not None:
            name = _origin(labels, reads, contraction.weight)
            if name is not None:
                return _at(labels, op, factor, maker, contraction, name, path[::-1])
        elif maker.name not in _MOVES | _LINEAR:
            return None
        path.append((maker, value))
        value = contraction.data if contraction is not None else _main(labels, maker)
    return None


def _main(labels: Labels, op: Op) -> int:
    """The argument that comes from the model's input, else the first."""
    values = [ref.value for ref in op.inputs()]
    return next((value for value in values if value in labels.from_input), values[0])


def _at(
    labels: Labels,
    op: Op,
    factor: float,
    layer: Op,
    contraction: Contraction,
    name: str,
    path: list[tuple[Op, int]],
) -> Rescale | None:
    axis = producers(labels).get(name)
    made = layer.outputs[0]
    if axis is None or made is None:
        return None
    shape = labels.graph.values[made.value].shape
    size = shape[contraction.out_axis]
    if labels.graph.values[labels.graph.state[name]].shape[axis] != size:
        return None
    reads = {number: known for known, number in labels.graph.state.items()}
    given = layer.arguments.get(contraction.bias or "")
    bias = _origin(labels, reads, given.value) if isinstance(given, Ref) else None
    along = [1] * len(shape)
    along[contraction.out_axis] = size
    numbers = torch.arange(size).view(along).expand(shape)
    rows = np.unique(_moved(numbers, made.value, path).numpy())
    addends = tuple(dict.fromkeys(_addends(labels, reads, path)))
    if bias is None:  # a bias that the code adds itself, row for row
        shapes = {item: labels.graph.values[labels.graph.state[item]].shape for item in addends}
        bias = next((item for item in addends if shapes[item] == (size,)), None)
    addends = tuple(item for item in addends if item != bias)
    between = _between(labels, (name, bias, *addends), op)
    return Rescale(op, name, axis, bias, addends, rows, factor, between)


def _origin(labels: Labels, reads: Mapping[int, str], value: int) -> str | None:
    """Return the tensor that a value is, or is computed from by ops with a single argument of its size each."""
    makers = {ref.value: op for op in labels.graph.ops for ref in op.outputs if ref is not None}
    while value not in reads:
        op = makers.get(value)
        sources = {ref.value for ref in op.inputs()} if op else set()
        sizes = sorted(labels.graph.values[value].shape)
        wide = [source for source in sources if sorted(labels.graph.values[source].shape) == sizes]
        if len(wide) != 1:
            return None
        value = wide[0]
    return reads[value]


def _addends(labels: Labels, reads: Mapping[int, str], path: list[tuple[Op, int]]) -> Iterator[str]:
    """Vectors of the model that are added to what comes from the layer."""
    for op, _ in path:
        if op.name in {"aten.add", "aten.sub"}:
            for ref in op.inputs():
                name = _vector(labels, reads, ref.value)
                if name is not None:
                    yield name


def _vector(labels: Labels, reads: Mapping[int, str], value: int) -> str | None:
    makers = {ref.value: op for op in labels.graph.ops for ref in op.outputs if ref is not None}
    while value not in reads and value in makers and makers[value].name in _MOVES:
        value = next(makers[value].inputs()).value
    return reads[value] if value in reads and len(labels.graph.values[value].shape) == 1 else None


def _moved(numbers: Tensor, value: int, path: list[tuple[Op, int]]) -> Tensor:
    """Let row numbers go where the rows go, up to the first op that sums."""
    for op, following in path:
        if op.name in _MOVES:
            given: dict[str, Any] = {
                name: numbers if isinstance(argument, Ref) and argument.value == value else argument
                for name, argument in op.arguments.items()
            }
            # laid out in memory otherwise than the tensor that the code had, so views may have to copy
            view = op.name in _VIEWS
            result = numbers.reshape(given["size"]) if view else invoke(op.target, given)
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
            wanted.update(ref.value for ref in op.inputs())
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
        added = f"{rescale.weight.rpartition('.')[0]}.bias"
        bias = rescale.bias or (added if added in recipe.added else None)
        for addend in rescale.addends:
            kept = recipe.keep.get(addend, {})
            whole = found[addend] if addend in found else cut(tensors[addend].detach(), kept)
            found[addend] = rescale.factor * whole
        for name, axis in ((rescale.weight, rescale.axis), (bias, 0)):
            if name is None:
                continue
            kept = recipe.keep.get(name, {})
            tensor = found[name] if name in found else cut(tensors[name].detach(), kept)
            stay = kept.get(axis, _kept_like(recipe, rescale, tensor.shape[axis]))
            hit = torch.from_numpy(np.isin(np.asarray(stay), rescale.rows)).to(tensor.device)
            shape = [1] * tensor.dim()
            shape[axis] = -1
            factors = torch.ones(hit.shape, dtype=torch.float64, device=tensor.device)
            factors[hit] = rescale.factor
            factors = factors.view(shape)
            found[name] = (tensor.double() * factors).to(tensor.dtype)
    return found


def _kept_like(recipe: Recipe, rescale: Rescale, size: int) -> tuple[int, ...]:
    """Rows of a bias that the recipe adds are those that stay of the weight."""
    return recipe.keep.get(rescale.weight, {}).get(rescale.axis, tuple(range(size)))
