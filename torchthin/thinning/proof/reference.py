"""What the thinned model must compute, worked out on the masked full-size model by the user's own code.

The masked model runs once more, op by op, and what its removed channels hold is derived on the way (`dead_channels.py`). Where an
op sums over channels, a removed one that holds zeros changes nothing, and a constant goes into a bias. One that holds anything
else must be made zero, or stay: the run ends with the list of these. Only where the thinned model cannot equal the masked one,
the run departs from it:
- where a constant meets a border, removed channels are left out and the constant that they add elsewhere is put back as a bias;
- where statistics run over channels (layer norm, a mean over channels), removed channels are left out of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchthin.dependency.dead_rules import CONSTANT, LIVE, SHIFTED, VARYING, ZERO
from torchthin.dependency.producers import summed_axis
from torchthin.dependency.propagate import Labels
from torchthin.dependency.registry import Contraction, rule_of
from torchthin.graph.deferred import Deferred
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import (
    CONTRACTIONS,
    CONVOLUTIONS,
    LAYER_NORMS,
    as_outputs,
    by_name,
    invoke,
    operator_name,
    same_family,
)
from torchthin.graph.opgraph import BRANCH, Op, Ref
from torchthin.graph.precision import Precision
from torchthin.thinning.proof.dead_channels import DeadChannels
from torchthin.thinning.proof.samples import Samples
from torchthin.thinning.survivors import ROUNDING, BoolArray, Place, Survivors, indices, nonzero_rows, rows


@dataclass(frozen=True)
class Constant:
    """The constant that removed channels add to a result."""

    op: Op
    contraction: Contraction
    delta: Tensor
    """Shape (output channels,), full size."""
    bias: Tensor | None
    """The op's bias as it went in, shape (output channels,)."""
    channels: tuple[int, ...]
    """Indices of the removed channels that emit it."""
    bordered: bool
    """The op pads its input (or spreads it, if transposed), so near the border the masked model differs from the constant."""

    @property
    def place(self) -> Place:
        """Where the channels are read."""
        return self.op.index, self.contraction.data, self.contraction.data_axis


@dataclass(frozen=True)
class Reference:
    """How the masked model must run to compute what the thinned model should."""

    survivors: Survivors
    departures: Departures | None = None
    """None: a run finds them out."""
    in_bias: frozenset[int] = frozenset()
    """Ops whose bias holds their constant already."""
    preserved: frozenset[int] = frozenset()
    """Ops that compute weights which keep their values, although the statistics of these ops lose channels."""
    made_good: frozenset[int] = frozenset()
    """Ops whose statistics lose zeros, which other weights make good for."""
    deferred: Deferred | None = None
    """Weights of the masked model that are made as they are read."""
    precision: Precision | None = None
    """What it computes in."""

    @property
    def labels(self) -> Labels:
        """The labelled record."""
        return self.survivors.labels


@dataclass
class Departures:
    """Where the thinned model is another function than the masked one, and constants that biases take over."""

    constants: dict[int, Constant] = field(default_factory=dict)
    """By op index."""
    partial: set[int] = field(default_factory=set)
    """Indices of ops that sum over channels and run without the removed ones."""
    left_out: dict[int, Op] = field(default_factory=dict)
    """Ops whose statistics lost channels."""
    alive: dict[Place, BoolArray] = field(default_factory=dict)
    """Where removed channels hold what no bias can stand for -> these indices of the axis."""
    silent: set[str] = field(default_factory=set)
    """Registered operators that say nothing of removed channels, where they met some."""

    @property
    def none(self) -> bool:
        """Whether the thinned model computes what the masked one does."""
        return not (self.partial or self.left_out)

    def join(self, other: Departures) -> None:
        """Take over those of another run."""
        self.constants |= other.constants
        self.partial |= other.partial
        self.left_out |= other.left_out
        self.alive |= other.alive
        self.silent |= other.silent


class ReferenceMode(CountingMode):
    """Runs the masked model as the thinned one must behave, in the evaluation run (0) or from `BRANCH` in the training branch."""

    def __init__(self, reference: Reference, start: int = 0) -> None:
        labels = reference.labels
        super().__init__(start, labels.graph.call_sites[start])
        self.deferred, self.precision = reference.deferred, reference.precision
        self.samples = Samples(reference.survivors, thinned=False)
        self.reference = reference
        self._survivors = reference.survivors
        self._in_training_branch = start >= BRANCH
        self._contractions, self._statistics = labels.contractions, labels.statistics
        self._from_input = labels.from_input
        self._ops = labels.graph.by_index
        self._dead = DeadChannels(reference.survivors) if reference.departures is None else None
        self.departures = reference.departures or Departures()
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
        """Run one op as the thinned model must, and take samples of its results."""
        result = self._executed(func, args, kwargs)
        if self.recorded:
            self.samples.note(self.completed, result)
        return result

    def _executed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        op = self._ops.get(self.completed) if self.recorded else None
        if op is None or not same_family(op.name, operator_name(func)):
            return self.compute(func, args, kwargs)
        self._met.add(op.index)
        if self._dead is not None:
            self._look(op, by_name(func, args, kwargs), self._dead)
        if op.index in self.departures.left_out:
            return self._leave_out(op, func, args, kwargs)
        if op.index in self.departures.partial or op.index in self.reference.in_bias:
            return self._without_removed(op, func, by_name(func, args, kwargs))
        return self.compute(func, args, kwargs)

    def _look(self, op: Op, given: Mapping[str, Any], dead: DeadChannels) -> None:
        """Find out whether the thinned model departs from the masked one at an op."""
        if op.index in self._contractions:
            self._look_at_sum(op, self._contractions[op.index], given, dead)
        elif op.index in self._statistics - self.reference.preserved and self._survivors.cut_any(op.reads):
            self._look_at_statistics(op, given, dead)
        dead.note(op, given)
        self.departures.silent |= dead.silent

    def _look_at_sum(
        self, op: Op, contraction: Contraction, given: Mapping[str, Any], dead: DeadChannels
    ) -> None:
        kept = self._survivors.along(contraction.data, contraction.data_axis)
        if kept is None:
            return
        data: Tensor = given[op.argument_of(contraction.data)]
        weight: Tensor = given[op.argument_of(contraction.weight)]
        product = contraction.weight in self._from_input
        held = dead.along(contraction.data, data, contraction.data_axis, zeros=product)
        if (held == SHIFTED).any():
            self.departures.partial.add(op.index)
        if product:
            other = dead.along(contraction.weight, weight, summed_axis(op, weight.dim()), zeros=True)
            alive = (held > ZERO) & (other > ZERO) & (held != SHIFTED) & (other != SHIFTED)
        else:
            read = (held == CONSTANT) | (held == VARYING) | (held == LIVE)
            read[read] = _is_read(op, weight, read)
            values, varies = _values_of_constants(data, contraction.data_axis, read & (held == CONSTANT))
            alive = (read & (held != CONSTANT)) | varies
            delta = _constant(op, given, values) if bool(values.any()) else None
            if delta is None:
                alive = alive | (values != 0).cpu().numpy()
            else:
                bias = given.get(contraction.bias) if contraction.bias else None
                channels = tuple(values.nonzero().flatten().tolist())
                constant = Constant(op, contraction, delta, bias, channels, _bordered(op))
                self.departures.constants[op.index] = constant
                if constant.bordered:
                    self.departures.partial.add(op.index)
        if alive.any():
            self.departures.alive[op.index, contraction.data, contraction.data_axis] = alive

    def _look_at_statistics(self, op: Op, given: Mapping[str, Any], dead: DeadChannels) -> None:
        entry = rule_of(op.name)
        if op.index in self.reference.made_good:
            places = dead.measured_alive(op, given)
        elif entry is not None and entry.sums and not _takes_the_least(op):
            places = dead.summed_alive(op, given)
        else:
            self.departures.left_out[op.index] = op
            return
        self.departures.alive |= {(op.index, value, axis): alive for (value, axis), alive in places.items()}

    def _without_removed(self, op: Op, func: Any, given: dict[str, Any]) -> Any:
        """Sum over the channels that are kept, and put back the constant of the others unless a bias holds it."""
        contraction = self._contractions[op.index]
        name, axis = op.argument_of(contraction.data), contraction.data_axis
        kept = self._survivors.along(contraction.data, axis)
        assert kept is not None
        shape = [1] * given[name].dim()
        shape[axis] = -1
        data = given[name] * torch.from_numpy(kept).to(given[name].device).view(shape)
        result = invoke(func, {**given, name: data})
        constant = self.departures.constants.get(op.index)
        if constant is None or op.index in self.reference.in_bias:
            return result
        along = [1] * result.dim()
        along[contraction.out_axis] = -1
        return result + constant.delta.view(along)

    def _leave_out(self, op: Op, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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


def _takes_the_least(op: Op) -> bool:
    """Whether a norm is of an order for which zeros count."""
    order = op.arguments.get("ord", op.arguments.get("p", 2))
    return not isinstance(order, (int, float)) or order < 0


def _values_of_constants(data: Tensor, axis: int, constant: BoolArray) -> tuple[Tensor, BoolArray]:
    """Return the number of every constant channel (0 of the others), and which of them differ along another axis after all.

    Without a row (no token went to this expert) nobody knows the number.
    """
    values, varies = data.new_zeros(constant.size), np.zeros_like(constant)
    if not constant.any() or not data.numel():
        return values, constant.copy()
    held = rows(data, axis, constant)
    first = held[:, 0]
    size = float(first.abs().max())
    differs = ((held - first[:, None]).abs() > ROUNDING * size).any(1)
    values[indices(constant, data)] = torch.where(differs, torch.zeros_like(first), first)
    varies[constant] = differs.cpu().numpy()
    return values, varies


def _is_read(op: Op, weight: Tensor, channels: BoolArray) -> BoolArray:
    """Return which of some channels of the data the weight does not multiply with zero."""
    grouped = op.name in CONVOLUTIONS and op.arguments.get("groups", 1) > 1
    if not channels.any() or grouped:
        return np.ones(int(channels.sum()), np.bool_)
    axis = summed_axis(op, weight.dim())
    return nonzero_rows(weight, axis, channels)


def _constant(op: Op, given: Mapping[str, Any], values: Tensor) -> Tensor | None:
    """What removed channels of these `values` add to every output channel away from borders.

    None where every matrix of a batch (experts) adds something else.
    """
    if op.name in CONVOLUTIONS:
        return _convolved(given, values)
    names = CONTRACTIONS.get(op.name)
    weight: Tensor = given["weight"].t() if names is None else given[names.weight]
    added = (values @ weight).reshape(-1, weight.shape[-1])
    same = len(added) and float((added - added[0]).abs().max()) <= ROUNDING * float(added.abs().max())
    return added[0] if same else None


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
        if arguments["group"] == arguments["C"]:
            arguments["group"] = arguments["input"].shape[1]
        arguments["N"], arguments["C"] = arguments["input"].shape[:2]
        arguments["HxW"] = int(np.prod(arguments["input"].shape[2:]))


def _bordered(op: Op) -> bool:
    if op.name not in CONVOLUTIONS:
        return False
    return any(op.arguments.get("padding", ())) or bool(op.arguments.get("transposed", False))
