"""Distillation without labels: a thinned model learns what the dense one gives for the same inputs.

The loss is the distance of the outputs (Hinton et al. 2015, arXiv 1503.02531, for logits) plus the mean distance of what the
layers give on the way, channel by channel among those that stayed (Romero et al. 2015, arXiv 1412.6550). Few inputs are
stretched by mixing pairs of them (Zhang et al. 2018, arXiv 1710.09412): the dense model labels the mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from torchthin.errors import CheckpointError, ConfigError, InputError, one_line
from torchthin.evaluation.distance import output_distance
from torchthin.graph.clone import state_tensors
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.outputs import output_tensors
from torchthin.graph.recorder import record
from torchthin.io.calibration import picked
from torchthin.io.checkpoints import read_state, write_state
from torchthin.io.distributed import (
    average_,
    broadcast_,
    is_distributed,
    rank_and_world_size,
    require_equal,
)
from torchthin.recovery.layers import find_layers
from torchthin.thinning.recipe import Recipe

OUTPUTS = ("values", "logits")
_KEPT = ("model", "optimizer", "schedule", "generator", "losses")
RATE = 5e-3
"""Of AdamW, at its highest."""
WARM_UP = 0.1
"""Share of the steps over which the rate grows from nothing: the first steps of the full rate do harm."""
Progress = Callable[[int, int, float], None]
"""(epochs done, epochs in all, mean loss of the last one)"""


@dataclass(frozen=True)
class Distillation:
    """How to train."""

    epochs: int
    batch: int = 32
    rate: float = RATE
    outputs: str = "values"
    """"values": mean squared error in units of the variance; "logits": Kullback-Leibler divergence over the last axis."""
    seed: int = 0
    mix: bool = True
    """Whether inputs are mixed in pairs: for few inputs of which a mixture still means something."""
    warm_up: float = WARM_UP
    """Share of the steps over which the rate grows from nothing."""

    def __post_init__(self) -> None:
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, int) or self.epochs < 0:
            raise ConfigError(
                f"The epochs of recover must be a whole number of at least 0. Got {self.epochs!r}."
            )
        if self.outputs not in OUTPUTS:
            raise ConfigError(f"The outputs of recover must be 'values' or 'logits'. Got {self.outputs!r}.")
        if not self.rate > 0:
            raise ConfigError(f"The rate of recover must be positive. Got {self.rate!r}.")
        if not 0 <= self.warm_up < 1:
            raise ConfigError(f"The warm_up of recover must be in [0, 1). Got {self.warm_up!r}.")


def distill_(
    dense: nn.Module,
    small: nn.Module,
    recipe: Recipe,
    inputs: Inputs,
    how: Distillation,
    *,
    state: Path | None = None,
    progress: Progress | None = None,
) -> tuple[float, ...]:
    """Train `small` in place with AdamW, its rate along a ramp and a cosine; BatchNorm statistics and dropout stand still.

    With several processes (torch.distributed initialised) every batch is shared among them and gradients are averaged; all
    end with the same weights, and rank 0 writes `state`.

    Args:
        dense: the teacher, left as it is.
        small: what `recipe` made of it.
        recipe: which channels stayed.
        inputs: calibration inputs in one batch, on the models' device.
        how: length, rate and loss.
        state: file that holds all that is needed to go on after every epoch; if it is there, training goes on from it.
        progress: told after every epoch.

    Returns:
        mean loss of every epoch.

    Raises:
        CheckpointError: `state` is of another run.
        InputError: the loss is not finite.
        ProofError: several processes have different models, numbers of inputs or states.
    """
    trained = [p for p in small.parameters() if p.is_floating_point()]
    flags = [(p, p.requires_grad) for p in small.parameters()]
    modes = {module: module.training for model in (dense, small) for module in model.modules()}
    count = next(inputs.tensors()).shape[0]
    steps = -(-count // how.batch)
    for parameter in trained:
        parameter.requires_grad_(not _is_setting(parameter))
    optimizer = torch.optim.AdamW([p for p in trained if p.requires_grad], how.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate_curve(how.epochs * steps, how.warm_up))
    generator = torch.Generator().manual_seed(how.seed)
    losses: list[float] = []
    if state is not None and state.exists():
        losses = _resume_(state, small, optimizer, schedule, generator, how)
    _begin_together(dense, small, recipe, inputs, len(losses))
    dense.eval()
    small.eval()
    pairs = _Features(dense, small, recipe, picked(inputs, torch.arange(1)))
    try:
        while len(losses) < how.epochs:
            total = 0.0
            for index in torch.randperm(count, generator=generator).split(how.batch):
                batch = _mixed(inputs, index, generator) if how.mix else picked(inputs, index)
                loss = _loss(dense, small, _share(batch), pairs, how)
                shown = loss.detach().clone()
                average_([shown])
                if not bool(shown.isfinite()):
                    raise InputError("The distillation diverged: its loss is not finite. Give a lower rate.")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                _average_gradients_([p for p in trained if p.requires_grad])
                optimizer.step()
                schedule.step()
                total += float(shown) * len(index)
            losses.append(total / count)
            if state is not None:
                _save(state, small, optimizer, schedule, generator, how, losses)
            if progress is not None:
                progress(len(losses), how.epochs, losses[-1])
    finally:
        pairs.close()
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
    return tuple(losses)


def _rate_curve(steps: int, warm_up: float) -> Callable[[int], float]:
    """Return the share of the rate at a step: a cosine from 1 to 0, times a ramp over the first ones."""
    ramp = max(1.0, warm_up * steps)
    return lambda step: min(1.0, (step + 1) / ramp) * (1 + math.cos(math.pi * step / max(1, steps))) / 2


def _is_setting(parameter: nn.Parameter) -> bool:
    """Whether a parameter is a setting of its layer that is no weight: ai8x keeps such, which want no gradient."""
    return not parameter.requires_grad and parameter.numel() == 1


def _mixed(inputs: Inputs, index: Tensor, generator: torch.Generator) -> Inputs:
    """Return the batch, each input mixed with up to a half of another; batches with whole numbers stay as they are."""
    batch = picked(inputs, index)
    share = torch.rand(len(index), generator=generator) / 2
    other = torch.randint(next(inputs.tensors()).shape[0], (len(index),), generator=generator)
    if not all(t.is_floating_point() for t in batch.tensors()):
        return batch
    partners = iter(picked(inputs, other).tensors())

    def mix(tensor: Tensor) -> Tensor:
        partner = next(partners)
        if not tensor.dim() or tensor.shape[0] != len(index):
            return tensor
        part = share.to(tensor).reshape(-1, *[1] * (tensor.dim() - 1))
        return tensor + part * (partner - tensor)

    return batch.map(mix)


def _loss(dense: nn.Module, small: nn.Module, batch: Inputs, pairs: _Features, how: Distillation) -> Tensor:
    device = next(batch.tensors()).device
    with torch.autocast(device.type, enabled=device.type == "cuda"):
        with torch.no_grad():
            wanted = call(dense, batch)
        got = call(small, batch)
    if how.outputs == "logits":
        return _divergence(wanted, got) + pairs.distance()
    return output_distance(wanted, got) + pairs.distance()


def _divergence(wanted: Any, got: Any) -> Tensor:
    """Return the mean Kullback-Leibler divergence of the classes' probabilities, over all floating outputs."""
    parts = [
        functional.kl_div(
            b.float().log_softmax(-1), a.float().log_softmax(-1), log_target=True, reduction="none"
        )
        for a, b in zip(output_tensors(wanted), output_tensors(got), strict=True)
        if a.is_floating_point()
    ]
    return torch.stack([part.sum(-1).mean() for part in parts]).mean()


class _Features:
    """What the layers of both models give in one call, where the thinned one has a layer for the dense one's."""

    def __init__(self, dense: nn.Module, small: nn.Module, recipe: Recipe, example: Inputs) -> None:
        self._places = dict(_places(small, recipe, example))
        self._given: dict[tuple[bool, str], Tensor | None] = {}
        self._hooks: list[RemovableHandle] = []
        for teacher, model in ((True, dense), (False, small)):
            for name in self._places:
                self._hooks.append(model.get_submodule(name).register_forward_hook(self._note(teacher, name)))

    def _note(self, teacher: bool, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            again = (teacher, name) in self._given
            self._given[teacher, name] = None if again or not isinstance(output, Tensor) else output

        return note

    def distance(self) -> Tensor:
        """Return the mean over all layers, each channel in units of its variance, and forget what was noted."""
        parts = []
        given, self._given = self._given, {}
        for name, (kept, axis) in self._places.items():
            wanted, got = given.get((True, name)), given.get((False, name))
            if wanted is None or got is None:
                continue
            wanted = wanted if kept is None else wanted.index_select(axis, kept.to(wanted.device))
            if wanted.shape != got.shape:
                continue
            rest = [d for d in range(wanted.dim()) if d != axis % wanted.dim()]
            variance = wanted.float().var(rest, correction=0, keepdim=True)
            error = (wanted.float() - got.float()).square().mean(rest, keepdim=True)
            parts.append((error / (variance + 1e-3 * variance.mean() + 1e-12)).mean())
        return torch.stack(parts).mean() if parts else torch.zeros(())

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()


def _places(
    small: nn.Module, recipe: Recipe, example: Inputs
) -> Iterator[tuple[str, tuple[Tensor | None, int]]]:
    """Yield the modules to compare, with the channels that stayed and their axis: layers, or the BatchNorm behind one."""
    layers, _ = find_layers(record(small, example).live(), small)
    modules = dict(small.named_modules())
    shapes = {name: p.dim() for name, p in small.named_parameters()}
    for layer in layers:
        name = layer.mean.rpartition(".")[0] if layer.mean is not None else layer.module
        if name and name in modules:
            kept = recipe.keep.get(layer.weight, {}).get(0)
            axis = 1 if shapes[layer.weight] > 2 else -1
            yield name, (None if kept is None else torch.tensor(kept), axis)


def _share(batch: Inputs) -> Inputs:
    """Return this process's part of a batch, at least one input."""
    rank, world = rank_and_world_size()
    size = next(batch.tensors()).shape[0]
    if world == 1 or size < world:
        return batch
    return picked(batch, torch.arange(rank, size, world))


def _average_gradients_(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters if is_distributed() else ():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    average_([parameter.grad for parameter in parameters if parameter.grad is not None])


def _begin_together(dense: nn.Module, small: nn.Module, recipe: Recipe, inputs: Inputs, done: int) -> None:
    """See that all processes have the same task, and give them rank 0's thinned model: their inputs may be others."""
    if not is_distributed():
        return
    state = {name: tensor.detach().cpu() for name, tensor in dense.state_dict().items()}
    bits = (
        tensor.contiguous().flatten().view(torch.uint8).numpy() for tensor in state.values() if tensor.numel()
    )
    sizes = [tuple(tensor.shape) for tensor in inputs.tensors()]
    device = next(inputs.tensors()).device
    parts = (recipe.to_dict(), sizes, done, *bits)
    require_equal("models, numbers of inputs or states", parts, device)
    broadcast_(tensor for _, tensor in state_tensors(small))


def _plan(how: Distillation) -> dict[str, Any]:
    return {
        "epochs": how.epochs,
        "batch": how.batch,
        "rate": how.rate,
        "outputs": how.outputs,
        "seed": how.seed,
        "mix": how.mix,
        "warm_up": how.warm_up,
    }


def _save(
    path: Path,
    small: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    how: Distillation,
    losses: list[float],
) -> None:
    if rank_and_world_size()[0]:
        return
    content = {
        "plan": _plan(how),
        "model": small.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": {k: v for k, v in schedule.state_dict().items() if isinstance(v, int | float | list)},
        "generator": generator.get_state(),
        "losses": list(losses),
    }
    write_state(path, "state", content)


def _resume_(
    path: Path,
    small: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    how: Distillation,
) -> list[float]:
    cure = "Remove it to begin anew."
    content = read_state(path, "state", ("plan", *_KEPT), cure)
    if content["plan"] != _plan(how):
        raise CheckpointError(f"The state {path} is of another recovery: {content['plan']}. {cure}")
    try:
        small.load_state_dict(content["model"])
        optimizer.load_state_dict(dict(content["optimizer"]))
        schedule.load_state_dict(dict(content["schedule"]))
        generator.set_state(content["generator"])
        return list(content["losses"])
    except Exception as error:  # what torch raises for a state of another model is of many kinds
        raise CheckpointError(
            f"The state {path} does not fit this model: {one_line(error)}. {cure}"
        ) from error
