"""One sample of the example inputs: what multiply-accumulates are counted for, however many samples the example holds."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchthin.graph.clone import clone
from torchthin.graph.deferred import Deferred
from torchthin.graph.inputs import Inputs
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.outputs import output_tensors
from torchthin.graph.precision import AS_GIVEN, SINGLE, Precision


@dataclass(frozen=True)
class Sample:
    """Inputs for which costs are counted."""

    inputs: Inputs
    is_single: bool
    """Whether they are one sample; False: no batch axis was found, and they are the whole example."""


def one_sample(model: nn.Module, inputs: Inputs) -> Sample:
    """Return one sample of `inputs`: an entry of the batch axis, with that axis.

    The batch axis is the first or the second one (recurrent layers have time first), the same in all inputs that have it. It
    is found by what it means: what the model returns for one entry alone is that entry's part of what it returns for all.
    The last entry is tried, which in a sequence depends on those before it. An axis of size 1 needs no trial.

    Args:
        model: any model that runs on the inputs; it is left as it is.
        inputs: the example, on the model's device.
    """
    everything: list[Tensor] | None = None
    for axis in (0, 1):
        sizes = dict.fromkeys(tensor.shape[axis] for tensor in inputs.tensors() if tensor.dim() > axis)
        for size in sizes:
            if size < 2:
                continue
            everything = _outputs(model, inputs) if everything is None else everything
            single = _last(inputs, axis, size)
            if _are_parts(everything, _outputs(model, single), size):
                return Sample(single, True)
        if 1 in sizes:
            return Sample(inputs, True)
    return Sample(inputs, False)


def _last(inputs: Inputs, axis: int, size: int) -> Inputs:
    """Return the last entry along an axis of all tensors that have this size there; others belong to every entry."""

    def change(tensor: Tensor) -> Tensor:
        batched = tensor.layout == torch.strided and tensor.dim() > axis and tensor.shape[axis] == size
        return tensor.narrow(axis, size - 1, 1).contiguous() if batched else tensor

    return inputs.map(change)


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return what the model returns, nothing where it does not run on the inputs."""
    for precision in (SINGLE, AS_GIVEN):
        with contextlib.suppress(Exception, SystemExit):  # of the user's code: it may fix the sizes
            return _computed(model, inputs, precision)
    return []


def _computed(model: nn.Module, inputs: Inputs, precision: Precision) -> list[Tensor]:
    mode, deferred = CountingMode(), Deferred()
    mode.precision, mode.deferred = precision, deferred
    copy = clone(model, lambda name, tensor: precision.shared(name, tensor, deferred).detach())
    return output_tensors(run(copy, precision.inputs(inputs), mode, disposable=True))


def _are_parts(everything: list[Tensor], single: list[Tensor], size: int) -> bool:
    """Whether the outputs for one entry are its part of the outputs for all entries, and some of them have such parts."""
    if not single or len(everything) != len(single):
        return False
    pairs = list(zip(everything, single, strict=True))
    return all(_is_part(*pair, size) for pair in pairs) and any(a.shape != b.shape for a, b in pairs)


def _is_part(whole: Tensor, part: Tensor, size: int) -> bool:
    """Whether `part` is the end of `whole` along the axes that are `size` times as long there (equal where none is)."""
    if whole.dim() != part.dim():
        return False
    for axis, (long, short) in enumerate(zip(whole.shape, part.shape, strict=True)):
        if long not in (short, short * size):
            return False
        whole = whole.narrow(axis, long - short, short)
    return _close(whole, part)


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal but for rounding; whole numbers (classes of equal scores) may differ."""
    if not a.is_floating_point() or not a.numel():
        return True
    largest = float(a.abs().nan_to_num().max())
    allowed = torch.finfo(a.dtype).eps ** 0.5 * largest
    return torch.allclose(a, b, rtol=0.0, atol=allowed, equal_nan=True)
