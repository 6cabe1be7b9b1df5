"""Every way to prune that is compared: a dense network and a budget of MACs go in, a smaller network comes out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from tasks import CALIBRATION, Task
from torch import Tensor, nn

from torchthin import Budget, Distiller, Recovery, prune, recover
from torchthin.graph.cost import measure
from torchthin.graph.inputs import as_inputs
from torchthin.graph.sample import one_sample
from torchthin.io.calibration import Calibration, calibration

STEPS = 12
"""Halvings in the search for the sparsity that meets a budget of MACs."""
FLOOR = 0.25
"""Share of every group that stays with this package's global ranking."""


Prune = Callable[["Job"], nn.Module]
"""Job -> smaller network."""


@dataclass(frozen=True)
class Job:
    """What a way is given."""

    task: Task
    dense: nn.Module
    budget: int
    """Most MACs of one input."""
    images: Tensor
    """Calibration inputs."""
    labels: Tensor
    """Theirs; only for ways that say so."""


@dataclass(frozen=True)
class Way:
    """One row of the table."""

    tool: str
    criterion: str
    data: str
    """"none", "inputs" (calibration pictures without labels) or "labels" (with them)."""
    prune: Prune


def macs(model: nn.Module, example: Tensor) -> int:
    """Return the multiply-accumulates of one input."""
    return measure(model, one_sample(model, as_inputs(example))).macs


def under_budget(cut: Callable[[float], nn.Module], job: Job) -> nn.Module:
    """Return the network of the least sparsity found whose MACs are within the budget; `cut` takes a sparsity."""
    low, high = 0.0, 0.98
    best: nn.Module | None = None
    for _ in range(STEPS):
        share = (low + high) / 2
        small = cut(share)
        if macs(small, job.task.example) <= job.budget:
            best, high = small, share
        else:
            low = share
    if best is None:
        raise ValueError(f"no sparsity up to {high} meets {job.budget} MACs")
    return best


def recalibrated(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the network with BatchNorm statistics of those pictures, as anyone can do in plain torch."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for batch in images.split(64):
            model(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return model.eval()


def torch_pruning(importance: str, *, everywhere: bool, recalibrate: bool) -> Prune:
    """Torch-Pruning's BasePruner with one of its criteria; `everywhere`: its global ranking instead of one per layer."""

    def way(job: Job) -> nn.Module:
        import torch_pruning as tp

        made = {
            "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
            "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
            "fpgm": tp.importance.FPGMImportance,
            "taylor": tp.importance.GroupTaylorImportance,
        }[importance]

        def cut(share: float) -> nn.Module:
            model = copy.deepcopy(job.dense)
            pruner = tp.pruner.BasePruner(
                model,
                job.task.example,
                importance=made(),
                global_pruning=everywhere,
                pruning_ratio=share,
                max_pruning_ratio=0.95,
                ignored_layers=job.task.untouchable(model),
            )
            if importance == "taylor":
                job.task.loss(model(job.images), job.labels).backward()
            pruner.step()
            return model

        small = under_budget(cut, job)
        small.zero_grad(set_to_none=True)
        return recalibrated(small, job.images) if recalibrate else small

    return way


def distiller(*, recalibrate: bool) -> Prune:
    """Distiller's L1 masks, each tensor ranked alone; what is dead in all coupled layers is then removed."""

    def way(job: Job) -> nn.Module:
        def cut(share: float) -> nn.Module:
            return prune(
                job.dense, job.task.example, Distiller("l1-structured", share), exclude=job.task.keep
            ).model

        small = under_budget(cut, job)
        return recalibrated(small, job.images) if recalibrate else small

    return way


_NOISE: WeakKeyDictionary[nn.Module, Calibration] = WeakKeyDictionary()


def _noise(job: Job) -> Calibration:
    """Return the noise for a network, made once; the seconds of one row only hold it."""
    if job.dense not in _NOISE:
        like = as_inputs(job.task.example)
        _NOISE[job.dense] = calibration("noise", like=like, max_samples=CALIBRATION, model=job.dense)
    return _NOISE[job.dense]


def torchthin(
    criterion: str,
    *,
    everywhere: bool,
    refit: bool = False,
    distil: bool = False,
    noise: bool = False,
    floor: float | None = FLOOR,
) -> Prune:
    """This package, to a budget of MACs; `refit`: layers refitted from the calibration inputs, `distil`: and trained on them.

    `noise`: from noise in their place.

    `everywhere`: scope="global", with at least `floor` of every group (None: the package's default, a tenth).
    """

    def way(job: Job) -> nn.Module:
        share = job.budget / macs(job.dense, job.task.example)
        data = None if not (refit or distil) else _noise(job) if noise else job.images
        target = Budget(
            macs=f"{share:.6f}x",
            scope="global" if everywhere else "group",
            at_least=floor if everywhere else None,
        )
        result = prune(
            job.dense, job.task.example, target, criterion=criterion, exclude=job.task.keep, data=data
        )
        if data is None:
            return result.model
        epochs = job.task.epochs if distil else 0
        return recover(
            job.dense, result, job.task.example, data, recovery=Recovery(epochs=epochs, mixup=job.task.mix)
        ).model

    return way
