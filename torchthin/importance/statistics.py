"""What running the model on data tells of its channels: effects of removing them, and the size of their values.

Both are sums over one pass through the data, batch by batch: kept are numbers per channel, never activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from torchthin.dependency.components import Grouping
from torchthin.dependency.groups import Group
from torchthin.dependency.propagate import Labels
from torchthin.errors import InputError, one_line
from torchthin.graph.clone import clone, state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call, on_device_of
from torchthin.graph.next_call import returned
from torchthin.graph.op_counter import CountingMode, following
from torchthin.graph.operators import by_name
from torchthin.graph.opgraph import BRANCH, OpGraph, Ref
from torchthin.graph.outputs import output_tensors
from torchthin.graph.parametrized import DerivedWeight
from torchthin.importance.channels import FloatArray, widened
from torchthin.importance.moments import Moments, MomentsMode
from torchthin.importance.removal import Consumer, removal_errors
from torchthin.importance.used_rows import linear_modules, used_rows

Mode = TypeVar("Mode", bound=CountingMode)
Loss = Callable[[nn.Module], Iterable[Tensor]]
"""The model -> a loss (a number with a gradient) for every batch."""
DRAWS = 32
"""Gradients that are drawn at least, each at random signs of the outputs: batches are split for it, parts drawn repeatedly."""


@dataclass
class Measure:
    """Statistics of a model on data, taken when first asked for; the model is left as it is."""

    model: nn.Module
    batches: Sequence[Inputs]
    derived: Mapping[str, DerivedWeight] = field(default_factory=dict)
    loss: Loss | None = None
    seed: int = 0
    _effects: dict[tuple[str, int], FloatArray] = field(default_factory=dict)
    _sizes: tuple[OpGraph, dict[int, FloatArray]] | None = None
    _moments: tuple[tuple[Any, ...], dict[int, Moments]] | None = None
    _removals: dict[bytes, Tensor | None] = field(default_factory=dict)

    def of(self, model: nn.Module, derived: Mapping[str, DerivedWeight]) -> Measure:
        """Return a measure of the model at another time, on the same data."""
        batches = [on_device_of(model, batch) for batch in self.batches]
        return Measure(model, batches, derived, self.loss, self.seed)

    def at(self, grouping: Grouping, labels: Labels, axes: Mapping[str, int]) -> MeasuredGroups:
        """Return the statistics of groups. axes: filter axis of every weight that makes channels."""
        return MeasuredGroups(self, grouping, labels, axes)

    def effects(self, parameter: str, axis: int, axes: Mapping[str, int]) -> FloatArray:
        """Return sum(w * g) of each index of an axis for every draw; those of `axes` are taken in the same pass."""
        if (parameter, axis) not in self._effects:
            wanted = {**axes, parameter: axis}
            self._effects |= _effects(self, set(wanted.items()))
        return self._effects[parameter, axis]

    def sizes(self, labels: Labels) -> dict[int, FloatArray]:
        """Return, for every contraction's op, the mean ``|a|`` along the axis that it sums over."""
        if self._sizes is None or self._sizes[0] is not labels.graph:
            self._sizes = (labels.graph, _sizes(self, labels))
        return self._sizes[1]

    def moments(self, labels: Labels) -> dict[int, Moments]:
        """Return, for every contraction's op that has them, the moments of its inputs."""
        ops = _evaluated(labels.graph)
        if self._moments is None or self._moments[0] != ops:
            self._removals.clear()
            found: dict[int, Moments] = {}
            linear = linear_modules(labels.graph, self.model)
            for _ in _passes(
                self, lambda batch: MomentsMode(labels, found, used_rows(self.model, linear, batch))
            ):
                pass
            self._moments = (ops, found)
        return self._moments[1]

    def removal_errors(
        self, key: bytes, consumers: Callable[[], list[Consumer]], channels: int
    ) -> Tensor | None:
        """Return the errors of a group, see `torchthin.importance.removal`, worked out once. key: which operators sum over it."""
        if key not in self._removals:
            found = consumers()
            self._removals[key] = removal_errors(found, channels) if found else None
        return self._removals[key]


@dataclass(frozen=True)
class MeasuredGroups:
    """The statistics of a measure, by the channels of groups."""

    measure: Measure
    grouping: Grouping
    labels: Labels
    axes: Mapping[str, int]

    def effects(self, parameter: str, axis: int) -> FloatArray:
        """Return sum(w * g) over all weights of each index of an axis, for every draw of g: (draws, size of axis)."""
        return self.measure.effects(parameter, axis, self.axes)

    def magnitudes(self, group: Group) -> FloatArray:
        """Return the mean absolute value of every channel where it is consumed, shape (channels,)."""
        total, count = np.zeros(group.size), np.zeros(group.size)
        sizes = self.measure.sizes(self.labels)
        for index, channel in self.consumed(group, sizes):
            met = channel >= 0
            total += np.bincount(channel[met], sizes[index][met], group.size)
            count += np.bincount(channel[met], minlength=group.size)
        return np.asarray(total / np.maximum(count, 1))

    def removal_errors(self, group: Group) -> Tensor | None:
        """Return the errors of the consumers as channels are removed, (channels,); None where none can be refitted."""
        taken = self.measure.moments(self.labels)
        return self.measure.removal_errors(
            self.signature(group), lambda: self._consumers(group, taken), group.size
        )

    def signature(self, group: Group) -> bytes:
        """Return which operators sum over which channels of the group."""
        parts = [bytes(str(index), "ascii") + channel.tobytes() for index, channel in self.consumed(group)]
        return b";".join(parts)

    def _consumers(self, group: Group, taken: Mapping[int, Moments]) -> list[Consumer]:
        """Return the layers that sum over the group's channels, ready to be refitted; those with equal shares of each."""
        found = []
        for index, channel in self.consumed(group, taken):
            moments = taken[index]
            of_column = np.repeat(channel, moments.taps)
            counts = np.bincount(of_column[of_column >= 0], minlength=group.size)
            if not counts.all() or np.ptp(counts):
                continue
            columns = np.argsort(of_column, kind="stable")[np.count_nonzero(of_column < 0) :]
            consumer = Consumer.of(
                moments.covariance(), moments.weight, torch.from_numpy(columns.reshape(group.size, -1))
            )
            found += [] if consumer is None else [consumer]
        return found

    def consumed(
        self, group: Group, contractions: Iterable[int] | None = None
    ) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield contractions with, for each index of the axis they sum over, its channel of the group; -1: none.

        contractions: numbers of operators; None: those that sum over a channel of the group.
        """
        own = np.full(self.grouping.components.reason.size, -1, np.int64)
        own[self.grouping.channels[group.name]] = np.arange(group.size)
        every = [index for index in self.labels.contractions if index < BRANCH]
        for index in every if contractions is None else contractions:
            contraction = self.labels.contractions[index]
            vector = self.labels.values[contraction.data][contraction.data_axis]
            if isinstance(vector, np.ndarray):
                channel = own[self.grouping.components.of_label[vector]]
                if contractions is not None or (channel >= 0).any():
                    yield index, channel


def _evaluated(graph: OpGraph) -> tuple[Any, ...]:
    """Return the operators of the evaluation run: a record of training as well has the same."""
    return tuple((op.index, op.target, op.source.module) for op in graph.ops if not op.trained)


def _effects(measure: Measure, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], FloatArray]:
    """Draw gradients, and add up w * g along the wanted axes."""
    copy = clone(measure.model, lambda name, t: t.detach() if isinstance(t, nn.Parameter) else t.clone())
    parameters = dict(copy.named_parameters())
    shapes = {name: tensor.shape for name, tensor in state_tensors(copy)}
    sources = {key: _source(key, measure.derived) for key in wanted}
    learnt = {name: parameters[name] for name, _ in sources.values() if name in parameters}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in learnt and parameter.is_floating_point())
    rows: dict[tuple[str, int], list[FloatArray]] = {key: [] for key in wanted}
    for gradients in _gradients(copy, measure, list(learnt.values())):
        given = dict(zip(learnt, gradients, strict=True))
        for key, (name, axis) in sources.items():
            gradient = given.get(name)  # none: a buffer, or a parameter that no output depends on
            along = np.zeros(shapes[key[0]][key[1]])
            if gradient is not None:
                along = _along(widened(learnt[name].detach()) * gradient, axis)
            rows[key].append(along)
    for key, found in rows.items():
        if not all(np.isfinite(along).all() for along in found):
            raise InputError(
                f"The gradients of {key[0]} are not finite on the data of prune. Check the data for NaN and the loss."
            )
    return {key: np.stack(found) for key, found in rows.items()}


def _along(product: Tensor, axis: int) -> FloatArray:
    """Return the sums of all but one axis."""
    others = [dim for dim in range(product.dim()) if dim != axis]
    sums = product.sum(others, dtype=torch.float64) if others else product.double()
    return np.asarray(sums.cpu().numpy())


def _source(key: tuple[str, int], derived: Mapping[str, DerivedWeight]) -> tuple[str, int]:
    """Return the parameter whose w * g is that of a weight: where a weight is computed, what scales its filters."""
    item = derived.get(key[0])
    return key if item is None or item.masked is None else (item.masked, item.axis)


def _gradients(copy: nn.Module, measure: Measure, wanted: list[Tensor]) -> Iterator[list[Tensor | None]]:
    with evaluation_mode(copy), torch.enable_grad():
        try:
            for loss, more in _losses(copy, measure):
                yield list(torch.autograd.grad(loss, wanted, retain_graph=more, allow_unused=True))
        except InputError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise InputError(
                f"The model ({type(copy).__name__}) gives no gradients on the data of prune: {one_line(error)}. "
                "Give inputs of the shapes that its forward takes, or choose a criterion without gradients."
            ) from error


def _losses(copy: nn.Module, measure: Measure) -> Iterator[tuple[Tensor, bool]]:
    """Yield what to take the gradient of, and whether its graph is needed again."""
    if measure.loss is not None:
        for loss in measure.loss(copy):
            yield loss, False
        return
    random = torch.Generator().manual_seed(measure.seed)
    parts = [part for batch in measure.batches for part in _split(batch, len(measure.batches))]
    draws = math.ceil(DRAWS / len(parts))
    for batch in parts:
        results = returned(copy, batch, call(copy, batch)).results  # a cache says nothing of its own worth
        outputs = [out for out in output_tensors(results) if out.requires_grad]
        if not outputs:
            raise InputError("No output of the model has a gradient. Choose a criterion without gradients.")
        scaled = [out / out.detach().norm().clamp_min(1e-12) for out in outputs]
        for draw in range(draws):
            signs = [torch.randint(0, 2, out.shape, generator=random).to(out) * 2 - 1 for out in scaled]
            total = torch.stack([(out * sign).sum() for out, sign in zip(scaled, signs, strict=True)]).sum()
            yield total, draw + 1 < draws


def _split(batch: Inputs, batches: int) -> list[Inputs]:
    """Return a batch in parts, so that all batches have `DRAWS` of them; one of a single input stays whole.

    The first axis of every tensor counts the inputs, where they agree in it.
    """
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in batch.tensors()}
    size = sizes.pop()
    count = min(size, math.ceil(DRAWS / batches))
    if sizes or count <= 1:
        return [batch]
    bounds = [round(size * part / count) for part in range(count + 1)]
    return [
        batch.map(lambda tensor, low=low, high=high: tensor[low:high])  # type: ignore[misc]
        for low, high in pairwise(bounds)
    ]


class _SizesMode(CountingMode):
    """Adds up the absolute values that every contraction sums over."""

    def __init__(self, labels: Labels) -> None:
        super().__init__(0, labels.graph.call_sites[0])
        self._ops = {op.index: op for op in labels.graph.ops if op.index in labels.contractions}
        self._labels = labels
        self.total: dict[int, Tensor] = {}
        self.count: dict[int, int] = {}

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        op = self._ops.get(self.completed) if self.recorded else None
        if op is not None and op.target is func:
            item = self._labels.contractions[op.index]
            name = next(n for n, a in op.arguments.items() if isinstance(a, Ref) and a.value == item.data)
            data: Tensor = by_name(func, args, kwargs)[name]
            rows = data.detach().movedim(item.data_axis, 0).flatten(1)
            sizes = torch.linalg.vector_norm(rows, ord=1, dim=1, dtype=torch.float64)
            self.total[op.index] = self.total.get(op.index, torch.zeros_like(sizes)) + sizes
            self.count[op.index] = self.count.get(op.index, 0) + rows.shape[1]
        return func(*args, **kwargs)


def _sizes(measure: Measure, labels: Labels) -> dict[int, FloatArray]:
    totals: dict[int, FloatArray] = {}
    counts: dict[int, int] = {}
    for mode in _passes(measure, lambda _: _SizesMode(labels)):
        for index, total in mode.total.items():
            totals[index] = totals.get(index, np.zeros(total.numel())) + total.cpu().numpy()
            counts[index] = counts.get(index, 0) + mode.count[index]
    return {index: total / max(counts[index], 1) for index, total in totals.items()}


def _passes(measure: Measure, make: Callable[[Inputs], Mode]) -> Iterator[Mode]:
    """Run a copy of the model on every batch, watched by a mode of its own, and yield the mode."""
    copy = clone(measure.model, lambda name, t: t.detach() if isinstance(t, nn.Parameter) else t.clone())
    for batch in measure.batches:
        mode = make(batch)
        with evaluation_mode(copy):
            try:
                with following(copy, mode):
                    call(copy, batch)
            except Exception as error:  # whatever the user's code raises
                raise InputError(
                    f"The model ({type(copy).__name__}) does not run on the data of prune: {one_line(error)}. "
                    "Give inputs of the shapes and dtypes that its forward takes."
                ) from error
        yield mode
