"""Experts of a mixture: the rows of a router that picks the best few, and stacked tensors or lists of modules.

Which expert a token goes to is a number, so labels stop at the router. Its experts are found beside the labels, in the record:
from an operator that picks the largest along an axis back to the product that made this axis, and from the module of that product
to the tensors of the same length that are read piece by piece along their first axis, and to lists of as many modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
from torch import nn

from torchthin.dependency.groups import Group, Member
from torchthin.graph.clone import modules_of
from torchthin.graph.layers import LISTS
from torchthin.graph.operators import (
    BATCHED_PRODUCTS,
    CONTRACTIONS,
    GROUPED_PRODUCTS,
    MATRIX_PRODUCTS,
    MOVES,
    VIEWS,
)
from torchthin.graph.opgraph import Op, OpGraph
from torchthin.graph.provenance import origin

PICKS = {"aten.topk": "dim", "aten.sort": "dim", "aten.argmax": "dim", "aten.max": "dim"}
"""Operators that pick the largest along an axis -> the argument that names it."""
_FLIPS = frozenset({"aten.t", "aten.transpose", "aten.permute"})
_SELECTS = frozenset({"aten.select", "aten.unbind", "aten.index_select", "aten.split"})
_LEVELS = 2
"""Modules above the router's in which its experts are looked for."""


@dataclass(frozen=True, eq=False)
class Experts:
    """The experts of one router."""

    group: Group
    """One channel for each expert; balanced where the router picks groups of them first."""
    axes: Mapping[str, int]
    """Tensor -> the axis along which its experts lie."""
    stacked: tuple[str, ...]
    """Those of these tensors that the experts compute with."""
    lists: tuple[str, ...]
    """Lists of modules, one for each expert."""
    least: int
    """Fewest experts from which the router can pick."""
    block: str
    """Path of the module that holds router and experts."""
    logits: frozenset[int]
    """Products that make the router's logits, as op indices."""
    shifted: frozenset[int]
    """Ops that add a number of each expert to what was made of the logits."""

    @property
    def size(self) -> int:
        """Number of experts."""
        return self.group.size

    def holds_any(self, names: Iterable[str]) -> bool:
        """Whether a tensor among `names` is one of the router or of an expert."""
        inside = tuple(f"{path}." for path in self.lists)
        return any(name in self.axes or name.startswith(inside) for name in names)

    @property
    def parts(self) -> int:
        """Number of groups of experts that the router picks first; equally many are removed from each."""
        return len(self.group.balances[0]) if self.group.balances else 1


@dataclass
class _Router:
    """What leads from the products that make logits to the picks among them."""

    rows: dict[str, int]
    """Tensor -> the axis that counts experts."""
    logits: set[int]
    shifted: set[int]
    least: int = 0
    once: int = 0
    """How often a single one is picked."""
    whole: int = 0
    """Most that are picked of all at once."""
    parts: int = 1
    modules: set[str] = field(default_factory=set)
    """Where it picks."""


def find_experts(graph: OpGraph, model: nn.Module) -> tuple[Experts, ...]:
    """Return the experts of every router of a recorded model, in the order in which they run."""
    found: dict[int, _Router] = {}
    for op in graph.ops:
        axis = _picked_axis(graph, op)
        if axis is not None and not op.trained:
            _follow_back(graph, op, axis, found)
    sites = (_with_experts(graph, model, router) for router in found.values())
    return tuple(site for site in sites if site is not None)


def _picked_axis(graph: OpGraph, op: Op) -> int | None:
    """Return the axis along which an op picks the largest, None where it picks nothing of a last axis."""
    value = op.value("self") if op.name in PICKS else None
    if value is None or not graph.values[value].dtype.is_floating_point:
        return None
    rank = len(graph.values[value].shape)
    axis = op.arguments.get("dim", -1 if op.name in {"aten.topk", "aten.sort"} else None)
    return rank - 1 if axis is not None and rank > 1 and axis % rank == rank - 1 else None


def _follow_back(graph: OpGraph, pick: Op, axis: int, found: dict[int, _Router]) -> None:
    """Walk back from a pick to the products of weights that made what it picks among; note them in `found`."""
    value = pick.value("self")
    assert value is not None
    made = _makers(graph, pick.index)
    router = _Router({}, set(), set())
    waiting, seen = [value], {value}
    size = 0
    while waiting:
        for op in made.get(waiting.pop(), ()):
            if op.name in CONTRACTIONS:
                size = _note_product(graph, op, router) or size
            elif op.name not in PICKS:
                _note_vectors(graph, op, router)
                waiting += [number for number in op.reads if number not in seen and number not in graph.names]
                seen.update(op.reads)
    if not router.logits or size < 2:
        return
    picked = graph.values[value].shape[-1]
    parts, rest = divmod(size, picked) if picked else (0, 1)
    if rest or (parts > 1 and picked < 2):
        return
    router.rows = {name: at for name, at in router.rows.items() if _length(graph, name, at) == size}
    known = found.setdefault(min(router.logits), router)
    known.rows |= router.rows
    known.logits |= router.logits
    known.shifted |= router.shifted
    known.parts = max(known.parts, parts)
    known.modules.add(pick.source.module)
    known.once += "k" not in pick.arguments
    count = int(pick.arguments.get("k", 1))
    known.least = max(known.least, known.once, count * parts)
    known.whole = max(known.whole, count if parts == 1 else 0)


def _makers(graph: OpGraph, end: int) -> Mapping[int, list[Op]]:
    """Return the ops before one that make each value or change it in place."""
    found: dict[int, list[Op]] = {}
    for op in graph.ops:
        if op.index == end:
            break
        for value in op.results:
            found.setdefault(value, []).append(op)
    return found


def _note_product(graph: OpGraph, op: Op, router: _Router) -> int:
    """Note a product of data and a weight of the model; return how many outputs it has, 0 for other products."""
    if op.name not in MATRIX_PRODUCTS:
        return 0
    weight = op.value(MATRIX_PRODUCTS[op.name].weight)
    found = None if weight is None else origin(graph, weight)
    if found is None or len(graph.values[graph.state[found.name]].shape) != 2:
        return 0
    flips = sum(step.name in _FLIPS for step, _ in found.path)
    router.rows[found.name] = 1 - flips % 2
    router.logits.add(op.index)
    _note_vectors(graph, op, router)
    return graph.values[op.results[0]].shape[-1]


def _note_vectors(graph: OpGraph, op: Op, router: _Router) -> None:
    """Note the vectors of the model that an op adds or multiplies."""
    for value in op.reads:
        found = origin(graph, value) if len(op.reads) > 1 else None
        shape = graph.values[graph.state[found.name]].shape if found is not None else ()
        longest = max(shape, default=1)
        if found is not None and 1 < prod(shape) == longest and graph.values[value].shape[-1:] == (longest,):
            router.rows[found.name] = shape.index(longest)
            router.shifted.add(op.index)


def _length(graph: OpGraph, name: str, axis: int) -> int:
    return graph.values[graph.state[name]].shape[axis]


def _with_experts(graph: OpGraph, model: nn.Module, router: _Router) -> Experts | None:
    """Return a router with its experts; None where nothing of its length is read piece by piece near it."""
    if not router.rows:
        return None
    rows = dict(
        sorted(
            router.rows.items(), key=lambda item: len(graph.values[graph.state[item[0]]].shape), reverse=True
        )
    )
    size = _length(graph, *next(iter(rows.items())))
    path = graph.by_index[min(router.logits)].source.module
    for block in _around(path):
        stacked = dict.fromkeys(_stacked(graph, block, size, rows), 0)
        lists = tuple(_lists(graph, model, block, size, path))
        if stacked or lists:
            axes = {**rows, **stacked}
            every = np.arange(size, dtype=np.int64)
            members = tuple(Member(name, axis, every[:, None]) for name, axis in axes.items())
            balances = (every.reshape(router.parts, -1),) if router.parts > 1 else ()
            group = Group(next(iter(axes)), size, members, balances)
            return Experts(
                group,
                axes,
                tuple(stacked),
                lists,
                max(router.least, _least_of_groups(graph, router)),
                block,
                frozenset(router.logits),
                frozenset(router.shifted),
            )
    return None


def _least_of_groups(graph: OpGraph, router: _Router) -> int:
    """Return the fewest experts from which as many can be picked as are picked, where some groups of them are picked first."""
    groups = [
        int(op.arguments.get("k", 1))
        for op in graph.ops
        if op.name in PICKS
        and op.source.module in router.modules
        and graph.values[op.reads[0]].shape[-1:] == (router.parts,)
    ]
    return -(-router.whole // min(groups)) * router.parts if groups and router.parts > 1 else 0


def _around(path: str) -> Iterator[str]:
    """Yield a module and those that hold it."""
    yield path
    for _ in range(_LEVELS):
        if not path:
            return
        path = path.rpartition(".")[0]
        yield path


def _stacked(graph: OpGraph, block: str, size: int, rows: Mapping[str, int]) -> Iterator[str]:
    """Yield the tensors in a module that are read piece by piece along a first axis of this size."""
    start = f"{block}." if block else ""
    for name, value in graph.state.items():
        shape = graph.values[value].shape
        if (
            name.startswith(start)
            and name not in rows
            and shape[:1] == (size,)
            and _read_in_pieces(graph, value)
        ):
            yield name


def _lists(graph: OpGraph, model: nn.Module, block: str, size: int, router: str) -> Iterator[str]:
    """Yield the lists in a module of as many modules of one form, of which some ran and none holds the router."""
    for path, module in modules_of(model.get_submodule(block)):
        name = ".".join(filter(None, (block, path)))
        holds = f"{router}.".startswith(f"{name}.")
        if not isinstance(module, LISTS) or len(module) != size or holds:
            continue
        forms = {tuple((key, tuple(p.shape)) for key, p in child.named_parameters()) for child in module}
        if len(forms) == 1 and forms != {()} and any(known.startswith(f"{name}.") for known in graph.state):
            yield name


def _read_in_pieces(graph: OpGraph, value: int) -> bool:
    """Whether an op takes parts of the first axis of a value, or multiplies them apart."""
    return any(_takes_pieces(graph, op, value) for op in graph.users.get(value, ()))


def _takes_pieces(graph: OpGraph, op: Op, value: int) -> bool:
    shape = graph.values[value].shape
    if op.name == "aten.index":
        return op.value("self") == value and op.arguments["indices"][0] is not None
    if op.name in _SELECTS and op.arguments.get("dim", 0) == 0:
        return op.value("self") == value
    if op.name in GROUPED_PRODUCTS or op.name in BATCHED_PRODUCTS:
        return len(shape) == 3
    after = graph.values[op.results[0]].shape if op.results else ()
    if op.name in MOVES or op.name == "aten._to_copy":
        kept = op.name in VIEWS or not {0, -len(shape)}.intersection(_moved(op))
        return kept and after[:1] == shape[:1] and _read_in_pieces(graph, op.results[0])
    return len(op.reads) > 1 and len(shape) > 1 and len(after) == len(shape) and after[:1] == shape[:1]


def _moved(op: Op) -> tuple[int, ...]:
    """Return the axes that an op moves."""
    if op.name == "aten.permute":
        dims = op.arguments["dims"]
        return tuple(axis for axis, source in enumerate(dims) if axis != source % len(dims))
    return (
        (op.arguments["dim0"], op.arguments["dim1"])
        if op.name == "aten.transpose"
        else (0,)
        if op.name == "aten.t"
        else ()
    )
