"""What the thinned model must compute, worked out on the masked full-size model by the user's own code.

The masked model runs once more, op by op, with three changes at the recorded ops:
- where an op sums over channels (convolution, matrix product), removed channels are left out and the constant that they add
  is put back as a bias;
- where statistics run over channels (layer norm, a mean over channels), removed channels are left out of them;
- everything else runs as it is.
If no removed channel emits a constant into a padded convolution and no statistics lose a channel, this is the masked model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchthin.dependency.propagate import Labels
from torchthin.dependency.registry import Contraction
from torchthin.graph.deferred import Deferred
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import CONTRACTIONS, CONVOLUTIONS, LAYER_NORMS, as_outputs, by_name, invoke
from torchthin.graph.opgraph import BRANCH, Op, Ref
from torchthin.thinning.survivors import Survivors, indices


@dataclass(frozen=True)
class Constant:
    """The constant that removed channels add to a result."""

    op: Op
    contraction: Contraction
    delta: Tensor
    """Shape (output channels,), full size."""
    bias: Tensor | None
    """The op's bias as it went in, shape (output channels,)."""
    spread: float
    """Largest distance of a removed channel's value from its mean: 0 when it is a constant."""
    level: float
    """Largest absolute mean of a removed channel."""
    bordered: bool
    """The op pads its input (or spreads it, if transposed), so near the border the masked model differs from the constant."""


@dataclass(frozen=True)
class Reference:
    """How the masked model must run to compute what the thinned model should."""

    survivors: Survivors
    constants: tuple[Constant, ...] | None = None
    """Those to put back; None: whatever constants a run meets are collected, none is put back."""
    in_bias: frozenset[int] = frozenset()
    """Ops whose bias holds their constant already."""
    preserved: frozenset[int] = frozenset()
    """Ops that compute weights which keep their values, although the statistics of these ops lose channels."""
    deferred: Deferred | None = None
    """Weights of the masked model that are made as they are read."""

    @property
    def labels(self) -> Labels:
        """The labelled record."""
        return self.survivors.labels


class ReferenceMode(CountingMode):
    """Runs the masked model as the thinned one must behave, in the evaluation run (0) or from `BRANCH` in the training branch."""

    def __init__(self, reference: Reference, start: int = 0) -> None:
        labels, known = reference.labels, reference.constants
        super().__init__(start, labels.graph.call_sites[start])
        self.deferred = reference.deferred
        self._reference = reference
        self._survivors = reference.survivors
        self._known = None if known is None else {constant.op.index: constant.delta for constant in known}
        self._in_training_branch = start >= BRANCH
        self._contractions, self._statistics = labels.contractions, labels.statistics
        self._from_input = labels.from_input
        self._ops = labels.graph.by_index
        self.constants: list[Constant] = []
        self.left_out: list[Op] = []
        """Ops whose statistics lost channels."""
        self._met: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether every recorded op that sums or takes statistics over removed channels was met."""
        summed = [(index, c.data) for index, c in self._contractions.items()]
        measured = [(index, value) for index in self._statistics for value in self._ops[index].reads]
        return all(
            index in self._met
            or (index >= BRANCH) != self._in_training_branch
            or not self._survivors.cut_axes(value)
            for index, value in summed + measured
        )

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op as the thinned model must."""
        op = self._ops.get(self.completed) if self.recorded else None
        if op is None or op.target is not func:
            return self.compute(func, args, kwargs)
        self._met.add(op.index)
        if op.index in self._contractions:
            return self._contract(op, self._contractions[op.index], func, args, kwargs)
        if op.index in self._statistics and op.index not in self._reference.preserved:
            return self._leave_out(op, func, args, kwargs)
        return self.compute(func, args, kwargs)

    def _contract(
        self, op: Op, contraction: Contraction, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        kept = self._survivors.along(contraction.data, contraction.data_axis)
        if kept is None:
            return func(*args, **kwargs)
        given = by_name(func, args, kwargs)
        name = op.argument_of(contraction.data)
        data: Tensor = given[name]
        axis = contraction.data_axis
        shape = [1] * data.dim()
        shape[axis] = -1
        removed = data.index_select(axis, indices(~kept, data))
        centre = removed.mean([d for d in range(data.dim()) if d != axis], keepdim=True)
        spread = float((removed - centre).abs().max()) if removed.numel() else 0.0
        values = torch.zeros_like(data.select(axis, 0).flatten()[:1].expand(kept.size)).clone()
        values[indices(~kept, data)] = centre.flatten()
        result = invoke(func, {**given, name: data * torch.from_numpy(kept).to(data.device).view(shape)})
        if self._known is None:
            if contraction.weight in self._from_input or not bool(values.any()):
                return result
            weight = CONTRACTIONS[op.name].weight if op.name in CONTRACTIONS else "weight"
            gone = torch.from_numpy(~kept).to(data)
            if not bool(_constant(op, {**given, weight: given[weight].abs()}, gone).any()):
                return result  # zeros take them in, whatever they are: the masked filters of a layer run backwards
            delta = _constant(op, given, values)
            bias = given.get(contraction.bias) if contraction.bias else None
            level = float(values.abs().max())
            self.constants.append(Constant(op, contraction, delta, bias, spread, level, _bordered(op)))
        elif op.index in self._known and op.index not in self._reference.in_bias:
            delta = self._known[op.index]
        else:
            return result
        along = [1] * result.dim()
        along[contraction.out_axis] = -1
        return result + delta.view(along)

    def _leave_out(self, op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not any(self._survivors.cut_axes(value) for value in op.reads):
            return func(*args, **kwargs)
        self.left_out.append(op)
        given = by_name(func, args, kwargs)
        replaced = {
            name: self._survivors.select(op.arguments[name].value, value)
            if isinstance(value, Tensor) and isinstance(op.arguments.get(name), Ref)
            else value
            for name, value in given.items()
        }
        _resize_arguments(op, replaced)
        result = invoke(func, replaced)
        # Code that asks how a result lies in memory (contiguous, view) must go on as it did when recorded.
        layouts = as_outputs(func(*args, **kwargs))
        full = [
            self._restore(ref, tensor, layout)
            if ref is not None and tensor is not None and layout is not None
            else tensor
            for ref, tensor, layout in zip(op.outputs, as_outputs(result), layouts, strict=True)
        ]
        return type(result)(full) if isinstance(result, (list, tuple)) else full[0]

    def _restore(self, ref: Ref, tensor: Tensor, layout: Tensor) -> Tensor:
        """Put what is kept back into full size, laid out in memory as `layout`."""
        cuts = self._survivors.cut_axes(ref.value)
        if not cuts:
            return torch.empty_like(layout).copy_(tensor)
        # What is removed from a part of a weight keeps its value: something may be divided by it.
        full = torch.zeros_like(layout) if ref.value in self._from_input else layout.clone()
        where = [indices(cuts[d], tensor) if d in cuts else slice(None) for d in range(layout.dim())]
        positions = torch.meshgrid(
            *(torch.arange(layout.shape[d], device=tensor.device)[kept] for d, kept in enumerate(where)),
            indexing="ij",
        )
        full[positions] = tensor
        return full


def _constant(op: Op, given: Mapping[str, Any], values: Tensor) -> Tensor:
    """What removed channels of these `values` add to every output channel away from borders."""
    if op.name in CONVOLUTIONS:
        return _convolved(given, values)
    names = CONTRACTIONS.get(op.name)
    weight: Tensor = given["weight"].t() if names is None else given[names.weight]
    return values @ weight if weight.dim() == 2 else values @ weight[0]


def _convolved(given: Mapping[str, Any], values: Tensor) -> Tensor:
    """Convolve a constant picture of the channel `values`, unpadded; transposed, the phases are averaged."""
    weight: Tensor = given["weight"]
    picture = values.view(1, -1, *[1] * (weight.dim() - 2))
    dilation, groups = list(given.get("dilation", [1])), given.get("groups", 1)
    if given.get("transposed", False):
        made: Tensor = torch.ops.aten.convolution(
            picture, weight, None, [1], [0], dilation, True, [0], groups
        )
        return made.flatten(2).sum(2)[0] / float(np.prod(given["stride"]))
    dilation = dilation * (weight.dim() - 2) if len(dilation) == 1 else dilation
    extent = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    picture = picture.expand(1, -1, *extent)
    made = torch.ops.aten.convolution(picture, weight, None, [1], [0], dilation, False, [0], groups)
    return made.flatten()


def _resize_arguments(op: Op, arguments: dict[str, Any]) -> None:
    """Set arguments that repeat a size."""
    if op.name in LAYER_NORMS:
        normalized = len(arguments["normalized_shape"])
        arguments["normalized_shape"] = list(arguments["input"].shape[-normalized:])
    elif op.name == "aten.select" and arguments["index"] > 0:
        arguments["index"] = arguments["self"].shape[arguments["dim"]] - 1  # the last of a sorted axis
    elif op.name == "aten.native_group_norm":
        arguments["N"], arguments["C"] = arguments["input"].shape[:2]
        arguments["HxW"] = int(np.prod(arguments["input"].shape[2:]))


def _bordered(op: Op) -> bool:
    if op.name not in CONVOLUTIONS:
        return False
    return any(op.arguments.get("padding", ())) or bool(op.arguments.get("transposed", False))
