"""Distillation without labels: a thinned model learns what the dense one gives for the same inputs.

The loss is the distance of the outputs (Hinton et al. 2015, arXiv 1503.02531, for logits) plus the mean distance of the
layers, channel by channel among those that were kept (Romero et al. 2015, arXiv 1412.6550). Few inputs are stretched by
mixing pairs of them (Zhang et al. 2018, arXiv 1710.09412): the dense model labels the mixture.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchthin.config import Recovery
from torchthin.dependency.kinds import attends
from torchthin.errors import InputError
from torchthin.evaluation.distance import floating, output_distance
from torchthin.graph.clone import state_tensors
from torchthin.graph.inputs import Inputs, call, sample_count
from torchthin.graph.opgraph import OpGraph
from torchthin.graph.output_shift import OUTPUT_SHIFT
from torchthin.graph.recorder import record
from torchthin.io.calibration import picked
from torchthin.io.distributed import (
    average_,
    broadcast_,
    is_distributed,
    rank_and_world_size,
    require_equal,
)
from torchthin.recovery.layer_distance import layer_distance
from torchthin.recovery.learning_rate import borne_lr
from torchthin.recovery.progress import Progress
from torchthin.recovery.training_state import TrainingState
from torchthin.thinning.recipe import Recipe

BATCH_SIZE = 32
PROBED = 16
"""Inputs on which it is tried which learning rate the model bears."""
LR, LR_OF_ATTENTION, LR_OF_ROUNDING = 5e-3, 2e-4, 1e-3
"""Learning rates where none was given; the last one in quantisation-aware mode."""
BatchLoss = Callable[[nn.Module, nn.Module, Callable[[], Tensor], str, Inputs], Tensor]
"""(dense, small, distance of their layers in the last call, kind of loss, batch) -> the loss on a batch."""


def batch_loss(
    dense: nn.Module, small: nn.Module, layers: Callable[[], Tensor], kind: str, batch: Inputs
) -> Tensor:
    """Return the loss of the outputs plus that of the layers; in mixed precision on CUDA. kind: see `Recovery.loss`."""
    device = next(batch.tensors()).device
    with torch.autocast(device.type, enabled=device.type == "cuda"):
        with torch.no_grad():
            wanted = call(dense, batch)
        got = call(small, batch)
    loss = _divergence(wanted, got) if kind == "logits" else output_distance(wanted, got)
    return loss + layers()


def _divergence(wanted: Any, got: Any) -> Tensor:
    """Return the mean Kullback-Leibler divergence of the classes' probabilities, over all floating outputs."""
    parts = [
        functional.kl_div(
            b.float().log_softmax(-1), a.float().log_softmax(-1), log_target=True, reduction="none"
        )
        for a, b in zip(floating(wanted), floating(got), strict=True)
    ]
    return torch.stack([part.sum(-1).mean() for part in parts]).mean()


def distill_(
    dense: nn.Module,
    small: nn.Module,
    recipe: Recipe,
    inputs: Inputs,
    recovery: Recovery,
    *,
    state: Path | None = None,
    progress: Progress | None = None,
    loss: BatchLoss = batch_loss,
) -> None:
    """Train `small` in place with AdamW, its learning rate along a ramp and a cosine; BatchNorm statistics and dropout are off.

    With several processes (torch.distributed initialised) every batch is shared among them and gradients are averaged; all
    end with the same weights, and rank 0 writes `state`.

    Args:
        dense: the teacher, left as it is.
        small: the model that `recipe` made of it.
        recipe: which channels were kept.
        inputs: calibration inputs in one batch, on the models' device.
        recovery: epochs, loss and learning rate.
        state: file with all that is needed to continue, written after every epoch; if it exists, training continues from it.
        progress: called after every epoch.
        loss: of a batch.

    Raises:
        CheckpointError: `state` is of another run.
        InputError: the loss is not finite.
        ProofError: several processes have different models, numbers of inputs or states.
    """
    one = picked(inputs, torch.arange(1))
    highest = default_lr(record(small, one))
    with _trainable(dense, small) as parameters, layer_distance(dense, small, recipe, one) as layers:
        on_batch = partial(loss, dense, small, layers, recovery.loss)
        lr = highest if recovery.lr is None else recovery.lr
        if recovery.lr is None and highest != LR_OF_ROUNDING and (state is None or not state.exists()):
            first = partial(on_batch, picked(inputs, torch.arange(min(PROBED, sample_count(inputs)))))
            lr = _together(borne_lr(parameters, first, highest, _steps(recovery, inputs)))
        training = _begin(small, parameters, _steps(recovery, inputs), recovery, lr)
        if state is not None and state.exists():
            training.resume_(state)
        _begin_together(dense, small, recipe, inputs, len(training.losses))
        while len(training.losses) < recovery.epochs:
            training.losses.append(_epoch_(training, inputs, recovery.mixup, on_batch))
            if state is not None and rank_and_world_size()[0] == 0:
                training.save(state)
            if progress is not None:
                progress(len(training.losses), recovery.epochs, "epochs", training.losses[-1])


@contextlib.contextmanager
def _trainable(dense: nn.Module, small: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Both models in evaluation mode, and gradients of the parameters that are given; all as before afterwards."""
    modes = [(module, module.training) for model in (dense, small) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in small.parameters()]
    trained = [p for p, _ in flags if p.is_floating_point() and not _is_setting(p)]
    for parameter in trained:
        parameter.requires_grad_()
    dense.eval()
    small.eval()
    try:
        yield trained
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None


def _is_setting(parameter: nn.Parameter) -> bool:
    """Whether a parameter is a setting of its layer and no weight: ai8x layers keep such, which have no gradient."""
    return not parameter.requires_grad and parameter.numel() == 1


def default_lr(graph: OpGraph) -> float:
    """Return the learning rate of a model for which none was given: that of convolutions makes attention and rounding worse."""
    if any(op.name == OUTPUT_SHIFT for op in graph.ops):
        return LR_OF_ROUNDING
    return LR_OF_ATTENTION if attends(graph) else LR


def _steps(recovery: Recovery, inputs: Inputs) -> int:
    """Return the steps of the whole run."""
    return recovery.epochs * -(-sample_count(inputs) // BATCH_SIZE)


def _together(lr: float) -> float:
    """Return the learning rate that the first process found."""
    found = torch.tensor(lr, dtype=torch.float64)
    broadcast_([found])
    return float(found)


def _begin(
    small: nn.Module, parameters: list[nn.Parameter], steps: int, recovery: Recovery, lr: float
) -> TrainingState:
    """Return the state before the first epoch; steps: of the whole run."""
    optimizer = torch.optim.AdamW(parameters, lr, weight_decay=0.0)
    share = lr_curve(steps, recovery.warmup)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    plan = asdict(recovery)
    return TrainingState(small, optimizer, schedule, torch.Generator().manual_seed(recovery.seed), plan)


def lr_curve(steps: int, warmup: float) -> Callable[[int], float]:
    """Return the share of the highest learning rate at a step: a cosine from 1 to 0, times a ramp over the first ones."""
    ramp = max(1.0, warmup * steps)
    return lambda step: min(1.0, (step + 1) / ramp) * (1 + math.cos(math.pi * step / max(1, steps))) / 2


def _epoch_(
    training: TrainingState, inputs: Inputs, mixup: bool, loss_of: Callable[[Inputs], Tensor]
) -> float:
    """Train on every input once, and return the mean loss."""
    count, total = sample_count(inputs), 0.0
    for index in torch.randperm(count, generator=training.generator).split(BATCH_SIZE):
        batch = _mixed(inputs, index, training.generator) if mixup else picked(inputs, index)
        loss = loss_of(_own_part(batch))
        mean = loss.detach().clone()
        average_([mean])
        if not bool(mean.isfinite()):
            raise InputError(
                "The distillation diverged: its loss is not finite. Give a lower learning rate (lr)."
            )
        training.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _average_gradients_(training.optimizer.param_groups[0]["params"])
        training.optimizer.step()
        training.schedule.step()
        total += float(mean) * len(index)
    return total / count


def _mixed(inputs: Inputs, index: Tensor, generator: torch.Generator) -> Inputs:
    """Return the batch, each input mixed with up to a half of another; of whole numbers, a span is another input's."""
    batch = picked(inputs, index)
    share = torch.rand(len(index), generator=generator) / 2
    other = torch.randint(sample_count(inputs), (len(index),), generator=generator)
    if not all(t.is_floating_point() for t in batch.tensors()):
        start = torch.rand(len(index), generator=generator)
        return _spliced(batch, picked(inputs, other), start, share)
    partners = iter(picked(inputs, other).tensors())

    def mix(tensor: Tensor) -> Tensor:
        partner = next(partners)
        if not tensor.dim() or tensor.shape[0] != len(index):
            return tensor
        part = share.to(tensor).reshape(-1, *[1] * (tensor.dim() - 1))
        return tensor + part * (partner - tensor)

    return batch.map(mix)


def _spliced(batch: Inputs, partners: Inputs, start: Tensor, share: Tensor) -> Inputs:
    """Return a batch in which a span of every input is that of its partner, the same in all tensors with as many positions.

    Tokens cannot be added up, but a text of parts of two has an answer of the dense model as well. Positions are the second axis
    of the tensors of whole numbers; where these differ in their number, nothing is changed.

    start, share: of every input, where the span begins among the positions, and its length as a share of them.
    """
    size = len(start)
    whole = [t for t in batch.tensors() if not t.is_floating_point() and t.dim() > 1 and len(t) == size]
    lengths = {t.shape[1] for t in whole}
    if len(lengths) != 1:
        return batch
    length = lengths.pop()
    position, first = torch.arange(length), (start * length).long()[:, None]
    taken = (position >= first) & (position < first + (share * length).long()[:, None])
    others = iter(list(partners.tensors()))

    def splice(tensor: Tensor) -> Tensor:
        other = next(others)
        if tensor.dim() < 2 or tensor.shape[:2] != taken.shape:
            return tensor
        return torch.where(
            taken.to(tensor.device).reshape(size, length, *[1] * (tensor.dim() - 2)), other, tensor
        )

    return batch.map(splice)


def _own_part(batch: Inputs) -> Inputs:
    """Return this process's part of a batch, at least one input."""
    rank, world = rank_and_world_size()
    size = sample_count(batch)
    if world == 1 or size < world:
        return batch
    return picked(batch, torch.arange(rank, size, world))


def _average_gradients_(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters if is_distributed() else ():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    average_([parameter.grad for parameter in parameters if parameter.grad is not None])


def _begin_together(dense: nn.Module, small: nn.Module, recipe: Recipe, inputs: Inputs, done: int) -> None:
    """Require the same task of all processes, and give them rank 0's thinned model: their inputs may differ."""
    if not is_distributed():
        return
    state = (tensor.detach().cpu() for tensor in dense.state_dict().values() if tensor.numel())
    bits = (tensor.contiguous().flatten().view(torch.uint8).numpy() for tensor in state)
    sizes = [tuple(tensor.shape) for tensor in inputs.tensors()]
    device = next(inputs.tensors()).device
    parts = (recipe.to_dict(), sizes, done, *bits)
    require_equal("models, numbers of inputs or states", parts, device)
    broadcast_(tensor for _, tensor in state_tensors(small))
