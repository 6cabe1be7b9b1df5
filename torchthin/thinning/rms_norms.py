"""RMS norms over fewer channels, exact all the same.

Such a norm divides by the root of the mean of squares. Where the removed channels of n are zero and k are left, the mean over the
k is n / k times as large as the mean over all. So with an epsilon n / k times as large the root is sqrt(n / k) times as large,
and a weight sqrt(n / k) times as large makes good for it:

    x w / sqrt(s / n + eps)  =  x (w sqrt(n / k)) / sqrt(s / k + eps n / k),  s the sum of squares, which zeros leave as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchthin.dependency.propagate import Labels
from torchthin.graph.operators import ADDITIONS, RMS_NORMS, VIEWS
from torchthin.graph.opgraph import Op, OpGraph
from torchthin.graph.tracked import Attribute
from torchthin.thinning.recipe import Recipe, cut
from torchthin.thinning.survivors import Survivors


@dataclass(frozen=True)
class RmsNorm:
    """A norm that a factor of its weight, and a larger epsilon, keep as it is."""

    op: Op
    """Takes the mean of squares, or is the whole norm."""
    weight: str
    offset: float
    """What the code adds to the weight before it multiplies (1 in Gemma)."""
    ratio: float
    """Channels before, divided by those that are left."""
    epsilon: tuple[Attribute, float] | None
    """Where the module keeps it, and its value after; None where it is the smallest number of the dtype."""
    between: frozenset[int]
    """Indices of ops whose results are other numbers than in the full-size model."""


def find_rms_norms(
    labels: Labels, survivors: Survivors, modules: Mapping[str, nn.Module]
) -> tuple[RmsNorm, ...]:
    """Find the norms that can be kept exact; of a weight that several ops read, only where all of them are such norms."""
    graph = labels.graph
    found = []
    for op in graph.ops:
        if op.index in labels.statistics and op.name in {"aten.mean", *RMS_NORMS}:
            norm = _fused(op, graph, survivors, modules) or _composed(op, graph, survivors, modules)
            found += [] if norm is None else [norm]
    by_weight: dict[str, list[RmsNorm]] = {}
    for norm in found:
        by_weight.setdefault(norm.weight, []).append(norm)
    return tuple(
        norm
        for name, norms in by_weight.items()
        if len(norms) == len(graph.users[graph.state[name]]) and len({norm.ratio for norm in norms}) == 1
        for norm in norms
    )


def _fused(op: Op, graph: OpGraph, survivors: Survivors, modules: Mapping[str, nn.Module]) -> RmsNorm | None:
    value = op.value("weight")
    if op.name not in RMS_NORMS or value is None or len(op.arguments["normalized_shape"]) != 1:
        return None
    ratio = _ratio(survivors, op.reads[0], len(graph.values[op.reads[0]].shape) - 1)
    epsilon = _epsilon(modules.get(op.source.module), op, op.arguments.get("eps"), ratio)
    name = graph.names.get(value)
    if ratio is None or name is None or epsilon is _UNKNOWN:
        return None
    return RmsNorm(op, name, 0.0, ratio, epsilon, frozenset())


def _composed(
    op: Op, graph: OpGraph, survivors: Survivors, modules: Mapping[str, nn.Module]
) -> RmsNorm | None:
    """Follow x * rsqrt(mean(x ** 2) + eps) * w, op by op."""
    square = graph.producer.get(op.reads[0])
    dims = op.arguments.get("dim")
    if op.name != "aten.mean" or square is None or not isinstance(dims, (list, tuple)) or len(dims) != 1:
        return None
    if not _squares(square):
        return None
    data = square.reads[0]
    ratio = _ratio(survivors, data, dims[0] % len(graph.values[data].shape))
    steps = _steps(op, graph)
    if ratio is None or steps is None:
        return None
    added, divided, made, scaled = steps
    weight = _weight(scaled, graph, made)
    number = added.arguments.get("other")
    epsilon = _epsilon(modules.get(op.source.module), added, number, ratio)
    if data not in divided.reads or weight is None or epsilon is _UNKNOWN:
        return None
    between = frozenset(range(op.index, scaled.index))
    return RmsNorm(op, weight[0], weight[1], ratio, epsilon, between)


def _squares(op: Op) -> bool:
    """Whether an op multiplies a tensor with itself."""
    if op.name == "aten.pow":
        return op.arguments.get("exponent") == 2
    return op.name == "aten.mul" and len(op.reads) == 2 and len(set(op.reads)) == 1


def _steps(op: Op, graph: OpGraph) -> tuple[Op, Op, int, Op] | None:
    """Return the ops that add epsilon, multiply or divide the data, and multiply by the weight, with no other reader between.

    Before the last the value that it multiplies: what was normalised in groups is put together for the weight.
    """
    added = _only_reader(op.results[0], graph, op)
    if added is None or added.name not in ADDITIONS or "alpha" in added.arguments:
        return None
    root = _only_reader(added.results[0], graph, added)
    if root is None or root.name not in {"aten.rsqrt", "aten.sqrt", "aten.pow"}:
        return None
    if root.name == "aten.pow" and root.arguments.get("exponent") not in {-0.5, 0.5}:
        return None
    inverse = root.name == "aten.rsqrt" or root.arguments.get("exponent") == -0.5
    divided = _only_reader(root.results[0], graph, root)
    if divided is None or divided.name not in ({"aten.mul", "aten.mul_"} if inverse else {"aten.div"}):
        return None
    made, scaled = divided.results[0], _only_reader(divided.results[0], graph, divided)
    while scaled is not None and scaled.name in VIEWS:
        made, scaled = scaled.results[0], _only_reader(scaled.results[0], graph, scaled)
    if scaled is None or scaled.name not in {"aten.mul", "aten.mul_"}:
        return None
    return added, divided, made, scaled


def _only_reader(value: int, graph: OpGraph, after: Op) -> Op | None:
    """Return the one op that reads a value after another op; the first, where that changes it in place."""
    readers = {op.index: op for op in graph.users.get(value, ()) if op.index > after.index}
    if not readers or value in graph.ends:
        return None
    first = readers[min(readers)]
    return first if len(readers) == 1 or value in first.written else None


def _weight(scaled: Op, graph: OpGraph, data: int) -> tuple[str, float] | None:
    """Return the parameter that the data are multiplied with, and what is added to it before."""
    others = [value for value in scaled.reads if value != data]
    if len(others) != 1:
        return None
    value, offset = others[0], 0.0
    op = graph.producer.get(value)
    if op is not None and op.name == "aten.add" and "alpha" not in op.arguments:
        number = op.arguments.get("other")
        if not isinstance(number, (int, float)) or len(op.reads) != 1:
            return None
        value, offset = op.reads[0], float(number)
    name = graph.names.get(value)
    return None if name is None or len(graph.values[value].shape) != 1 else (name, offset)


def _ratio(survivors: Survivors, value: int, axis: int) -> float | None:
    cuts = survivors.cut_axes(value)
    if cuts.keys() != {axis}:
        return None
    return cuts[axis].size / int(cuts[axis].sum())


_UNKNOWN = (Attribute("", ""), math.nan)
"""An epsilon that no attribute holds."""


def _epsilon(
    module: nn.Module | None, op: Op, number: object, ratio: float | None
) -> tuple[Attribute, float] | None:
    if isinstance(module, nn.RMSNorm if hasattr(nn, "RMSNorm") else ()) and module.eps is None:
        return None
    if module is None or ratio is None or not isinstance(number, float):
        return _UNKNOWN
    names = [name for name, value in vars(module).items() if type(value) is float and value == number]
    return (Attribute(op.source.module, names[0]), number * ratio) if len(names) == 1 else _UNKNOWN


def scaled_weights(
    norms: Iterable[RmsNorm], recipe: Recipe, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights of norms, thinned and multiplied.

    Args:
        norms: what is kept exact.
        recipe: what thins the model.
        tensors: full-size tensors by name.
    """
    found: dict[str, Tensor] = {}
    for norm in norms:
        tensor = cut(tensors[norm.weight].detach(), recipe.keep.get(norm.weight, {}))
        larger = (tensor.to(torch.float64) + norm.offset) * math.sqrt(norm.ratio) - norm.offset
        found[norm.weight] = larger.to(tensor.dtype)
    return found
