"""What a model costs: multiply-accumulates of one forward pass, parameters, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from torch import nn

from torchthin.graph.clone import clone
from torchthin.graph.deferred import Deferred
from torchthin.graph.flops import flops_of
from torchthin.graph.inputs import Inputs
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.precision import AS_GIVEN, SINGLE, Precision
from torchthin.graph.sample import Sample


def macs_unit(per_sample: bool) -> str:
    """Return what multiply-accumulates are of, in words."""
    return "MACs per sample" if per_sample else "MACs of the whole example"


@dataclass(frozen=True)
class Cost:
    """Cost of a model."""

    parameters: int
    parameter_bytes: int
    macs: int
    """Multiply-accumulates of convolutions and matrix products in one forward pass on one sample (1 MAC = 2 FLOPs)."""
    macs_per_sample: bool = True
    """False: the example shows no batch axis, and `macs` are of the whole example."""
    macs_of_op: Mapping[int, int] = field(default_factory=dict, repr=False, compare=False)
    """The same of every op that has some, by its number in the run."""

    @property
    def unit(self) -> str:
        """What `macs` are of, in words."""
        return macs_unit(self.macs_per_sample)


class _FlopMode(CountingMode):
    """Adds up what torch's formulas say of every op."""

    def __init__(self, *, fake: bool) -> None:
        super().__init__(fake=fake)
        self.flops: Counter[int] = Counter()

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.compute(func, args, kwargs)
        flops = flops_of(func, args, kwargs, result)
        if flops:
            self.flops[self.completed] += flops
        return result


def measure(model: nn.Module, sample: Sample) -> Cost:
    """Count what one forward pass on `sample` costs, by torch's formulas for FLOPs; the model is left as it is.

    The pass runs without arithmetic, unless the model's code asks for numbers.
    """
    counter = _counter(model, sample.inputs)
    macs_of_op = {index: flops // 2 for index, flops in counter.flops.items()}
    return replace(known_cost(model, counter.flops.total() // 2, sample), macs_of_op=macs_of_op)


def known_cost(model: nn.Module, macs: int, sample: Sample) -> Cost:
    """Return the cost of a model whose multiply-accumulates on `sample` a run has counted already."""
    parameters = list(model.parameters())
    return Cost(
        sum(p.numel() for p in parameters),
        sum(p.numel() * p.element_size() for p in parameters),
        macs,
        sample.is_single,
    )


def _counter(model: nn.Module, inputs: Inputs) -> _FlopMode:
    for fake in (True, False):
        with suppress(Exception):  # whatever the user's code raises: it may go on where there are numbers
            return _counted(model, inputs, SINGLE, fake=fake)
    return _counted(model, inputs, AS_GIVEN, fake=False)


def _counted(model: nn.Module, inputs: Inputs, precision: Precision, *, fake: bool) -> _FlopMode:
    counter, deferred = _FlopMode(fake=fake), Deferred()
    counter.precision, counter.deferred = precision, None if fake else deferred
    copy = clone(model, lambda name, tensor: precision.shared(name, tensor, deferred).detach())
    run(copy, precision.inputs(inputs), counter, disposable=True)
    return counter


def shares_of_sample(model: nn.Module, inputs: Inputs, sample: Sample) -> dict[int, Fraction]:
    """Return for every op that multiplies (by its index in a record on `inputs`) which share of its cost is one sample's.

    Most take as many times more as there are samples, those on weights alone the same. A run on one sample may have other
    ops, but only such as move numbers; where it has others that multiply, all get the share of the whole model.
    """
    if sample.inputs is inputs:
        return {}
    example, one = (measure(model, each) for each in (Sample(inputs, False), sample))
    if len(example.macs_of_op) != len(one.macs_of_op):
        return dict.fromkeys(example.macs_of_op, Fraction(one.macs, max(example.macs, 1)))
    pairs = zip(example.macs_of_op.items(), one.macs_of_op.values(), strict=True)
    return {index: Fraction(part, max(all_of_it, 1)) for (index, all_of_it), part in pairs}
