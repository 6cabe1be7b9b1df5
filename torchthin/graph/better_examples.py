"""Examples that show too little (one step, one pixel, equal values), and better ones made of them for the record.

One step of a sequence does not show that a loop reads its own state, a loop over one entry not that it is one. What the caller
gave stays what costs are counted for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.graph.inputs import Inputs
from torchthin.graph.opgraph import OpGraph
from torchthin.graph.trace import Traced, trace

_PICKS = frozenset({"aten.select", "aten.unbind", "aten.split", "aten.unsafe_split"})


def trace_more(model: nn.Module, inputs: Inputs) -> Traced:
    """Record what `model` computes on `inputs`, or on a better example where they show too little and it takes one.

    A longer example is one that makes as many rows of every output. The first axis, mostly a batch of 1, is made longer only
    where code goes through its entries: more rows cost more and hardly ever show more.

    Raises:
        InputError: the model cannot be copied, or does not run on the inputs.
    """
    found = _try(model, _varied(inputs), inputs) if _is_constant(inputs) else None
    found = trace(model, inputs) if found is None else found
    for longer in _longer_examples(found.inputs):
        better = _try(model, longer, inputs)
        if better is not None and _rows(better.graph) == _rows(found.graph):
            found = better
            break
    if _takes_the_only_entry(found.graph):
        better = _try(model, _longer(found.inputs, [0]), inputs)
        if better is not None and len(better.graph.call_sites[0]) > len(found.graph.call_sites[0]):
            found = better
    return found


def _try(model: nn.Module, better: Inputs, given: Inputs) -> Traced | None:
    """Return the record on a better example, which says so; None where the model does not take it."""
    with contextlib.suppress(InputError):
        traced = trace(model, better)
        note = (
            f"The example shows too little ({_text(given)}{', equal values' if _is_constant(given) else ''}): the model was "
            f"recorded and compared on a better one made of it ({_text(better)})."
        )
        graph = replace(traced.graph, note=f"{note} {traced.graph.note}".strip())
        return replace(traced, graph=graph, given=given)
    return None


def _text(inputs: Inputs) -> str:
    return ", ".join("x".join(map(str, tensor.shape)) or "a number" for tensor in inputs.tensors())


def _is_constant(inputs: Inputs) -> bool:
    """Whether no input has two values, though one has room for them and can be given others."""
    several = [t for t in inputs.tensors() if t.numel() > 1 and not t.is_meta and t.layout == torch.strided]
    return any(map(_can_vary, several)) and all(bool((t == t.flatten()[0]).all()) for t in several)


def _can_vary(tensor: Tensor) -> bool:
    """Whether other values are of the same kind: bools are masks, and other indices than zeros may be out of range."""
    return tensor.is_floating_point() or (tensor.dtype != torch.bool and not bool(tensor.any()))


def _varied(inputs: Inputs) -> Inputs:
    """Return random numbers in place of equal ones, and zeros and ones in place of whole numbers that are zero."""
    generator = torch.Generator().manual_seed(0)

    def change(tensor: Tensor) -> Tensor:
        if tensor.numel() < 2 or not _can_vary(tensor):
            return tensor
        if tensor.is_floating_point():
            return tensor + torch.randn(tensor.shape, generator=generator).to(tensor)
        return torch.randint(0, 2, tensor.shape, generator=generator).to(tensor)

    return inputs.map(change)


def _longer_examples(inputs: Inputs) -> Iterator[Inputs]:
    """Yield examples with more entries along axes of one, the first excepted: in all tensors, then in each alone."""
    short = [tensor for tensor in inputs.tensors() if 1 in tensor.shape[1:]]
    there = frozenset(
        axis for tensor in short for axis, size in enumerate(tensor.shape) if axis and size == 1
    )
    for axes in dict.fromkeys((there, there - {1}, there & {1})):
        if axes:
            yield _longer(inputs, axes)
    for tensor in short if len(short) > 1 else ():
        yield _longer(inputs, there, tensor)


def _longer(inputs: Inputs, axes: Iterable[int], only: Tensor | None = None) -> Inputs:
    """Return inputs with a few entries along those of some axes that have one; of `only` one tensor, if given.

    Further entries hold the numbers of the tensor in another order: they are of the same kind. Their number is the size of no
    axis that there is, so that what fits does not fit by chance.
    """
    sizes = {size for tensor in inputs.tensors() for size in tensor.shape}
    size = next(number for number in count(2) if number not in sizes)

    def change(tensor: Tensor) -> Tensor:
        for axis in axes if only is None or tensor is only else ():
            if tensor.shape[axis : axis + 1] == (1,):
                more = [tensor.flatten().roll(shift).view(tensor.shape) for shift in range(size)]
                tensor = torch.cat(more, axis)
        return tensor

    return inputs.map(change)


def _rows(graph: OpGraph) -> list[tuple[int, ...]]:
    """Return the size of the first axis of every output, and how many axes it has, in all runs."""
    shapes = [graph.values[value].shape for value in graph.outputs]
    return [(len(shape), *shape[:1]) for shape in shapes]


def _takes_the_only_entry(graph: OpGraph) -> bool:
    """Whether an input has one entry along its first axis, and code takes the only entry of an axis that comes from one."""
    if all(graph.values[number].shape[:1] != (1,) for number in graph.inputs):
        return False
    reached = set(graph.inputs)
    for op in graph.ops:
        if not reached.isdisjoint(op.reads):
            reached.update(op.results)
            shape = graph.values[op.reads[0]].shape
            if op.name in _PICKS and shape[op.arguments.get("dim", 0)] == 1:
                return True
    return False
