"""Whole layers: modules of one class in lists, each of which adds to a stream that goes through all of them in turn.

Found by one run and the record, not by names: a layer is called once, returns what it was given in the same shape, adds to it on
the way (``x + f(x)``), and what it returns is what the next one is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from typing import Any

from torch import Tensor, nn

from torchthin.graph.clone import clone, modules_of, share
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.operators import ADDITIONS, MOVES
from torchthin.graph.opgraph import Op, OpGraph
from torchthin.graph.trace import Traced

LISTS = (nn.ModuleList, nn.Sequential)
"""Classes whose children can be left out."""
_COPIES = MOVES | {"aten._to_copy"}

Argument = int | str
"""Position or name of an argument."""


@dataclass(frozen=True)
class Layer:
    """A module that can be left out: what it is given goes on as it is."""

    path: str
    stream: Argument
    """The argument that it adds to."""

    @property
    def place(self) -> tuple[str, int]:
        """Path of the list that it is in, and its position there."""
        path, _, position = self.path.rpartition(".")
        return path, int(position)


@dataclass(frozen=True)
class Stack:
    """Layers of one class, in the order in which the stream goes through them."""

    layers: tuple[Layer, ...]
    """Those that can be left out."""
    ends: frozenset[str]
    """Paths of the first and of the last module that the stream goes through, whether these can be left out or not."""

    @property
    def name(self) -> str:
        """The lists that its layers are in."""
        return ", ".join(dict.fromkeys(layer.place[0] or "the model" for layer in self.layers))


Seen = Callable[[str, Argument, Tensor, Tensor], object]
"""Called with the path of a module, the argument with its stream, what that was, and what became of it."""


def find_stacks(traced: Traced) -> tuple[Stack, ...]:
    """Return the stacks of a model with two layers or more that can be left out."""
    calls = _calls(traced.model, traced.inputs)
    paths = [seen.path for seen in calls]
    adding = _adding(traced.graph, set(paths))
    private = _private(traced.model, set(paths))
    before = {(id(seen.result), seen.kind): seen.path for seen in calls}
    chains: list[list[_Call]] = []
    for seen in calls:
        previous = before.get((id(seen.given), seen.kind))
        chain = next((c for c in chains if c[-1].path == previous), None)
        if chain is None:
            chains.append([seen])
        else:
            chain.append(seen)
    found = []
    for chain in chains:
        layers = [
            Layer(seen.path, seen.stream)
            for seen in chain
            if seen.keeps_shape and paths.count(seen.path) == 1 and seen.path in adding & private
        ]
        if len(layers) > 1:
            found.append(Stack(tuple(layers), frozenset({chain[0].path, chain[-1].path})))
    return tuple(_outermost(found))


def watch_(model: nn.Module, paths: Sequence[str], seen: Seen) -> None:
    """Call `seen` after each call of a module of `model` that returns a tensor, alone or first, and is given one."""
    modules = dict(modules_of(model))
    for path in paths:
        modules[path].register_forward_hook(partial(_watched, path, seen), with_kwargs=True)


def _watched(path: str, seen: Seen, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    result = output[0] if isinstance(output, (tuple, list)) and output else output
    given = ((key, value) for key, value in (*enumerate(args), *kwargs.items()) if isinstance(value, Tensor))
    stream = next(((key, value) for key, value in given if value.is_floating_point()), None)
    if stream is not None and isinstance(result, Tensor):
        seen(path, *stream, result)


@dataclass(frozen=True)
class _Call:
    """One call of a module in a list."""

    path: str
    kind: type[nn.Module]
    stream: Argument
    given: Tensor = field(repr=False)
    result: Tensor = field(repr=False)

    @property
    def keeps_shape(self) -> bool:
        return self.given.shape == self.result.shape and self.given.dtype == self.result.dtype


def _calls(model: nn.Module, inputs: Inputs) -> list[_Call]:
    """Run a copy and return the calls of all modules in lists, in order."""
    made, calls = clone(model, share), list[_Call]()
    kinds = dict(_in_lists(made))
    watch_(made, list(kinds), lambda path, *rest: calls.append(_Call(path, kinds[path], *rest)))
    with evaluation_mode(made, disposable=True):
        call(made, inputs)
    return calls


def _in_lists(model: nn.Module) -> Iterator[tuple[str, type[nn.Module]]]:
    """Yield the modules in lists whose children are numbered, but for those that are lists themselves."""
    known = {path for path, _ in modules_of(model)}  # a module in two lists has its first path alone
    for path, module in modules_of(model):
        if isinstance(module, LISTS) and list(module._modules) == [str(n) for n in range(len(module))]:
            for number, child in enumerate(module):
                whole = f"{path}.{number}" if path else str(number)
                if whole in known and type(child) not in LISTS:
                    yield whole, type(child)


def _private(model: nn.Module, paths: set[str]) -> set[str]:
    """Return those of the modules whose parameters nothing else has."""
    owners: dict[int, set[str]] = {}
    for path, module in modules_of(model):
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(path)
    shared = [names for names in owners.values() if len(names) > 1]
    return {p for p in paths if all(len({_is_in(name, p) for name in names}) == 1 for names in shared)}


def _is_in(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _outermost(stacks: Sequence[Stack]) -> Iterator[Stack]:
    """Yield the stacks that are not in a layer of another one."""
    layers = [layer.path for stack in stacks for layer in stack.layers]
    for stack in stacks:
        first = stack.layers[0].path
        if not any(path != first and _is_in(first, path) for path in layers):
            yield stack


def _adding(graph: OpGraph, paths: set[str]) -> set[str]:
    """Return those of the modules that add what they compute to what they were given."""
    ops = [op for op in graph.ops if not op.trained]
    spans: dict[str, tuple[int, int]] = {}
    for number, op in enumerate(ops):
        parts = op.source.module.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            if path in paths:
                spans[path] = spans.get(path, (number, 0))[0], number
    # All that runs in between belongs to a layer, also what its code makes a module for as it runs.
    return {path for path, (first, last) in spans.items() if _adds_to_its_input(ops[first : last + 1])}


def _adds_to_its_input(ops: Sequence[Op]) -> bool:
    """Whether a sum of these ops has one part from outside, as it was, and one that was computed from it."""
    roots: dict[int, int] = {}
    """Value that a copy was made of, by the copy."""
    uses: dict[int, set[int]] = {}
    """Values from outside that a value was computed from."""

    def root(value: int) -> int:
        return root(roots[value]) if value in roots else value

    for op in ops:
        if op.name in ADDITIONS:
            parts = [value for name in ("self", "other") if (value := op.value(name)) is not None]
            if any(root(a) not in uses and root(a) in uses.get(b, ()) for a, b in permutations(parts, 2)):
                return True
        reached = {part for value in op.reads for part in uses.get(value, {root(value)})}
        for result in op.results:
            if op.name in _COPIES and root(op.reads[0]) not in uses:
                roots[result] = op.reads[0]
            else:
                uses[result] = uses.get(result, set()) | reached
    return False


def leave_out_(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Let these layers of `model` hand on what they are given, in place of what they compute."""
    modules: Mapping[str, nn.Module] = dict(modules_of(model))
    for layer in layers:
        modules[layer.path].register_forward_hook(partial(_handed_on, layer.stream), with_kwargs=True)


def _handed_on(stream: Argument, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    given = args[stream] if isinstance(stream, int) else kwargs[stream]
    return type(output)((given, *output[1:])) if isinstance(output, (tuple, list)) else given
