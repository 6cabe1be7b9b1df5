"""Noise that a model takes for data: every BatchNorm remembers the means and variances of what the model was trained on.

After Cai et al. 2020, "ZeroQ" (arXiv 2001.00281), and Yin et al. 2020, "Dreaming to Distill" (arXiv 1912.08795): inputs are
changed by gradient descent until they give all BatchNorms what these remember. No labels, no data, no second network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchthin.graph.clone import clone
from torchthin.graph.cost import measure
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call, on_device_of
from torchthin.graph.sample import one_sample

Progress = Callable[[int, int], None]
STEPS = 100
RATE = 0.05
"""Of Adam, in deviations of the noise; it falls along a cosine."""
WORK = 4 * 10**12
"""Multiply-accumulates that the descent takes at most on a CPU: some minutes of one core."""
GPU = 50
"""Times as many where the model lies on another device."""
ROOM = 2**28
"""Numbers that go into BatchNorms at once: a step keeps several times as many."""
FEWEST = 32, 20
"""Inputs and steps at least: means and variances of fewer say little, and in fewer nothing comes near them."""


def matched_noise(
    model: nn.Module, noise: Inputs, count: int, progress: Progress | None = None
) -> Inputs | None:
    """Return inputs that give the BatchNorms of `model` the means and variances that these remember.

    Where the descent would take more than `WORK`, fewer inputs are made, in fewer steps.

    Args:
        model: left as it is.
        noise: one batch to start from, of a floating point dtype, on any device.
        count: inputs in it.
        progress: called with the number of steps that are done and of all.

    Returns:
        one batch of as many inputs or fewer, with the dtype of `noise`; None where the model has no BatchNorm with
        running statistics, is too large, or gives no gradients.
    """
    if not any(isinstance(m, _BatchNorm) and m.running_mean is not None for m in model.modules()):
        return None
    try:
        copy = clone(model, lambda _, t: (t.float() if t.is_floating_point() else t).detach().clone())
        size = _size(copy, noise, count)
        if size is None:
            return None
        most, steps = size
        start = on_device_of(model, noise.map(lambda t: t[:most] if t.dim() and len(t) == count else t))
        made = _descended(copy, start, most, steps, progress)
    except Exception:  # whatever the user's code raises for one input alone, or where gradients are asked for
        return None
    finite = all(bool(t.isfinite().all()) for t in made.tensors())
    return made if finite else None  # what is remembered may be NaN


def _size(copy: nn.Module, noise: Inputs, count: int) -> tuple[int, int] | None:
    """Return how many inputs are made and in how many steps; forward and backward together are three passes."""
    whole = on_device_of(copy, noise.map(lambda t: _widened(t[:1] if t.dim() and len(t) == count else t)))
    place = next(whole.tensors()).device.type
    work = WORK * (1 if place == "cpu" else GPU)
    passes = work // max(3 * measure(copy, one_sample(copy, whole)).macs, 1)
    inputs, steps = FEWEST
    room = ROOM // max(_numbers(copy, whole), 1)
    if passes < inputs * steps or min(count, room) < inputs:
        return None
    most = min(count, max(inputs, min(passes // STEPS, room)))
    return most, int(min(STEPS, passes // most))


def _numbers(copy: nn.Module, one: Inputs) -> int:
    """Return how many numbers come out of BatchNorms for one input."""
    found: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _module, _args, out: found.append(out.numel()))
        for module in copy.modules()
        if isinstance(module, _BatchNorm)
    ]
    with evaluation_mode(copy, disposable=True):
        call(copy, one)
    for hook in hooks:
        hook.remove()
    return sum(found)


@dataclass
class _Statistics:
    """How far what goes into BatchNorms is from what they remember, in one pass."""

    parts: list[Tensor] = field(default_factory=list)
    """One for each BatchNorm that ran."""

    def look(self, norm: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        """Add squared differences of means, in units of the variance, and of the logarithms of deviations, mean over channels."""
        assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
        given = args[0] if args else named["input"]
        others = [axis for axis in range(given.dim()) if axis != 1]
        variance, mean = torch.var_mean(given, dim=others, correction=0)
        remembered = norm.running_var + norm.eps
        means = (mean - norm.running_mean).square() / remembered
        deviations = ((variance + norm.eps).log() - remembered.log()).square() / 4
        self.parts.append((means + deviations).mean())


def _descended(copy: nn.Module, start: Inputs, count: int, steps: int, progress: Progress | None) -> Inputs:
    """Return `start` after gradient descent, its first axis of `count` inputs."""
    copy.requires_grad_(False)
    statistics = _Statistics()
    for module in copy.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.register_forward_pre_hook(statistics.look, with_kwargs=True)
    now = start.map(lambda t: _widened(t).clone())
    learnt = [
        t.requires_grad_() for t in now.tensors() if t.is_floating_point() and t.dim() and len(t) == count
    ]
    optimizer = torch.optim.Adam(learnt, RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with evaluation_mode(copy, disposable=True), torch.enable_grad():
        for step in range(steps):
            statistics.parts.clear()
            call(copy, now)
            optimizer.zero_grad()
            torch.stack(statistics.parts).sum().backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, steps)
    ended = iter(list(now.tensors()))
    return start.map(lambda t: next(ended).detach().to(t.dtype))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
