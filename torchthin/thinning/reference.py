"""What the thinned model must compute, worked out on the masked full-size model by the user's own code.

The masked model runs once more, op by op, with three changes at the recorded ops:
- where an op sums over channels (convolution, matrix product), channels that go are left out and the constant they add is
  put back as a bias;
- where statistics run over channels (layer norm, a mean over channels), channels that go are left out of them;
- everything else runs as it is.
If no dead channel emits a constant into a padded convolution and no statistics lose a channel, this is the masked model itself.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchthin.dependency.components import Components
from torchthin.dependency.labels import FROZEN, Axes, FlattenedAxis, Vector
from torchthin.dependency.propagate import Labels
from torchthin.dependency.registry import Contraction
from torchthin.graph.arguments import as_outputs, by_name
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.opgraph import BRANCH, Op, Ref

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Constant:
    """The constant that dead channels add to a result."""

    op: Op
    contraction: Contraction
    delta: Tensor
    """Shape (output channels,), full size."""
    bias: Tensor | None
    """The op's bias as it went in, shape (output channels,)."""
    spread: float
    """Largest distance of a dead channel's value from its mean: 0 when it is a constant."""
    level: float
    """Largest absolute mean of a dead channel."""
    bordered: bool
    """The op pads its input (or spreads it, if transposed), so near the border the masked model differs from the constant."""


@dataclass
class Kept:
    """Which indices of every labelled value stay."""

    labels: Labels
    components: Components
    gone: BoolArray
    """Shape (components,)."""
    _cache: dict[tuple[int, int], BoolArray | None] = field(default_factory=dict)

    def along(self, value: int, axis: int) -> BoolArray | None:
        """Return which indices of an axis stay; None when all do."""
        key = (value, axis)
        if key not in self._cache:
            labels = self.labels.values.get(value, ())[axis] if value in self.labels.values else None
            keep: BoolArray | None = None
            if labels is not None:
                keep = (
                    labels.spread(self._staying)
                    if isinstance(labels, FlattenedAxis)
                    else self._staying(labels)
                )
                keep = None if keep.all() else keep
            self._cache[key] = keep
        return self._cache[key]

    def _staying(self, vector: Vector) -> BoolArray:
        return np.asarray(~self.gone[self.components.of_label[vector]] | (vector == FROZEN))

    def cut_axes(self, value: int) -> dict[int, BoolArray]:
        """Return the axes of a value from which something goes."""
        axes: Axes = self.labels.values.get(value, ())
        found = {d: self.along(value, d) for d in range(len(axes))}
        return {d: keep for d, keep in found.items() if keep is not None}

    def select(self, value: int, tensor: Tensor) -> Tensor:
        """Return what stays of a full-size tensor."""
        for axis, keep in self.cut_axes(value).items():
            tensor = tensor.index_select(axis, indices(keep, tensor))
        return tensor


def indices(keep: BoolArray, like: Tensor) -> Tensor:
    """Return kept positions as an index tensor on the device of `like`."""
    return torch.from_numpy(np.flatnonzero(keep)).to(like.device)


class ReferenceMode(CountingMode):
    """Runs the masked model as the thinned one must behave; collects constants on the way, or takes those `known`.

    Ops in `placed` find their constant in the bias already; those in `settled` compute weights that stay what they were,
    although their statistics lose channels.
    """

    def __init__(
        self,
        labels: Labels,
        kept: Kept,
        known: Sequence[Constant] | None = None,
        placed: Container[int] = (),
        settled: Container[int] = (),
        start: int = 0,
    ) -> None:
        super().__init__(start, labels.graph.calls(start))
        self._trained = start >= BRANCH
        self._placed = placed
        self._settled = settled
        self._known = None if known is None else {constant.op.index: constant.delta for constant in known}
        self._kept = kept
        self._contractions = labels.contractions
        self._statistics = labels.statistics
        self._from_input = labels.from_input
        self._ops = {op.index: op for op in labels.graph.ops}
        self.constants: list[Constant] = []
        self.left_out: list[Op] = []
        self._met: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether every recorded op that sums or takes statistics over channels that go was met."""
        summed = [(index, c.data) for index, c in self._contractions.items()]
        measured = [(index, ref.value) for index in self._statistics for ref in self._ops[index].inputs()]
        return all(
            index in self._met or (index >= BRANCH) != self._trained or not self._kept.cut_axes(value)
            for index, value in summed + measured
        )

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op as the thinned model must."""
        op = self._ops.get(self.completed) if self.recorded else None
        if op is None or op.target is not func:
            return func(*args, **kwargs)
        self._met.add(op.index)
        if self.completed in self._contractions:
            return self._contract(op, self._contractions[self.completed], func, args, kwargs)
        if self.completed in self._statistics and self.completed not in self._settled:
            return self._leave_out(op, func, args, kwargs)
        return func(*args, **kwargs)

    def _contract(
        self, op: Op, contraction: Contraction, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        keep = self._kept.along(contraction.data, contraction.data_axis)
        if keep is None:
            return func(*args, **kwargs)
        given = by_name(func, args, kwargs)
        name = next(n for n, a in op.arguments.items() if isinstance(a, Ref) and a.value == contraction.data)
        data: Tensor = given[name]
        axis = contraction.data_axis
        stay = torch.from_numpy(keep).to(data.device)
        shape = [1] * data.dim()
        shape[axis] = -1
        dead = data.index_select(axis, indices(~keep, data))
        centre = dead.mean([d for d in range(data.dim()) if d != axis], keepdim=True)
        spread = float((dead - centre).abs().max()) if dead.numel() else 0.0
        values = torch.zeros_like(data.select(axis, 0).flatten()[:1].expand(keep.size)).clone()
        values[indices(~keep, data)] = centre.flatten()
        replaced = {**given, name: data * stay.view(shape)}
        result = invoke(func, replaced)
        if self._known is None:
            if contraction.weight in self._from_input or not bool(values.any()):
                return result
            delta = self._constant(op, given, name, values)
            level = float(values.abs().max())
            bias = given.get(contraction.bias) if contraction.bias else None
            self.constants.append(Constant(op, contraction, delta, bias, spread, level, _bordered(op)))
        elif op.index in self._known and op.index not in self._placed:
            delta = self._known[op.index]
        else:
            return result
        along = [1] * result.dim()
        along[contraction.out_axis] = -1
        return result + delta.view(along)

    def _constant(self, op: Op, given: Mapping[str, Any], name: str, values: Tensor) -> Tensor:
        """What the dead channels add to every output channel away from borders."""
        if op.name == "aten.convolution":
            return _convolved(given, values)
        weight: Tensor = (
            given["weight"].t() if "weight" in given else given["mat2" if "mat2" in given else "batch2"]
        )
        return values @ weight if weight.dim() == 2 else values @ weight[0]

    def _leave_out(self, op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        refs = [ref for ref in op.inputs() if self._kept.cut_axes(ref.value)]
        if not refs:
            return func(*args, **kwargs)
        self.left_out.append(op)
        given = by_name(func, args, kwargs)
        replaced = {
            name: self._kept.select(op.arguments[name].value, value)
            if isinstance(value, Tensor) and isinstance(op.arguments.get(name), Ref)
            else value
            for name, value in given.items()
        }
        _resize_arguments(op, replaced)
        result = invoke(func, replaced)
        # Code that asks how a result lies in memory (contiguous, view) must go on as it did when recorded.
        places = as_outputs(func(*args, **kwargs))
        full = [
            self._restore(ref, tensor, place)
            if ref is not None and tensor is not None and place is not None
            else tensor
            for ref, tensor, place in zip(op.outputs, as_outputs(result), places, strict=True)
        ]
        return type(result)(full) if isinstance(result, (list, tuple)) else full[0]

    def _restore(self, ref: Ref, tensor: Tensor, place: Tensor) -> Tensor:
        """Put what stays back into full size, laid out as `place`."""
        cuts = self._kept.cut_axes(ref.value)
        if not cuts:
            return torch.empty_like(place).copy_(tensor)
        # What goes from a part of a weight keeps its value: something may be divided by it.
        full = (
            torch.zeros_like(place) if ref.value in self._from_input else torch.empty_like(place).copy_(place)
        )
        where = [indices(cuts[d], tensor) if d in cuts else slice(None) for d in range(place.dim())]
        positions = torch.meshgrid(
            *(torch.arange(place.shape[d], device=tensor.device)[kept] for d, kept in enumerate(where)),
            indexing="ij",
        )
        full[positions] = tensor
        return full


def _convolved(given: Mapping[str, Any], values: Tensor) -> Tensor:
    """Convolve a constant picture of the channel `values`, unpadded; transposed, the phases are averaged."""
    weight: Tensor = given["weight"]
    picture = values.view(1, -1, *[1] * (weight.dim() - 2))
    dilation = list(given.get("dilation", [1]))
    if given.get("transposed", False):
        made: Tensor = torch.ops.aten.convolution(
            picture, weight, None, [1], [0], dilation, True, [0], given.get("groups", 1)
        )
        return made.flatten(2).sum(2)[0] / float(np.prod(given["stride"]))
    dilation = dilation * (weight.dim() - 2) if len(dilation) == 1 else dilation
    extent = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    picture = picture.expand(1, -1, *extent)
    made = torch.ops.aten.convolution(
        picture, weight, None, [1], [0], dilation, False, [0], given.get("groups", 1)
    )
    return made.flatten()


def invoke(func: Any, given: Mapping[str, Any]) -> Any:
    """Call an op with arguments by name (ops refuse names for some positional arguments)."""
    args = []
    kwargs = {}
    for argument in func._schema.arguments:
        if argument.kwarg_only:
            if argument.name in given:
                kwargs[argument.name] = given[argument.name]
        else:
            args.append(given.get(argument.name, argument.default_value))
    return func(*args, **kwargs)


def _resize_arguments(op: Op, arguments: dict[str, Any]) -> None:
    """Arguments that repeat a size."""
    if op.name in {"aten.native_layer_norm", "aten._fused_rms_norm", "aten.rms_norm"}:
        normalized = len(arguments["normalized_shape"])
        arguments["normalized_shape"] = list(arguments["input"].shape[-normalized:])
    elif op.name == "aten.select" and arguments["index"] > 0:
        arguments["index"] = arguments["self"].shape[arguments["dim"]] - 1  # the last of a sorted axis
    elif op.name == "aten.native_group_norm":
        arguments["N"], arguments["C"] = arguments["input"].shape[:2]
        arguments["HxW"] = int(np.prod(arguments["input"].shape[2:]))


def _bordered(op: Op) -> bool:
    if op.name != "aten.convolution":
        return False
    return any(op.arguments.get("padding", ())) or bool(op.arguments.get("transposed", False))
