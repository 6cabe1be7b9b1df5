"""The stages of a recovery: reconstruction, BatchNorm statistics, distillation; each is taken only if it lowers the distance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.config import Recovery
from torchthin.errors import InputError
from torchthin.evaluation.evaluator import Evaluator
from torchthin.graph.clone import clone, duplicate, saved_names, share, state_tensors
from torchthin.graph.inputs import Inputs, as_inputs, check_model, on_device_of
from torchthin.graph.recorder import record
from torchthin.io.calibration import Calibration, calibration, picked
from torchthin.io.distributed import broadcast_, rank_and_world_size
from torchthin.recovery.batchnorm import recalibrate_
from torchthin.recovery.distillation import distill_
from torchthin.recovery.progress import Progress
from torchthin.recovery.reconstruction import Reconstruction, reconstruct_
from torchthin.report.sections import RecoveryFacts, Stage
from torchthin.thinning.apply import thin_copy
from torchthin.thinning.recipe import Recipe

HELD_OUT = 8
"""One of so many inputs is held out, the last ones, to measure the distance."""
FEWEST = 32
"""With fewer inputs none is held out."""
AT_ONCE = 3 * 2**30
"""Bytes of activations that one pass over all inputs may take."""


@dataclass
class _Search:
    """Keeps the model that is nearest to the dense one so far."""

    evaluator: Evaluator
    model: nn.Module
    distance: float
    stages: list[Stage] = field(default_factory=list)

    def offer(self, name: str, model: nn.Module) -> bool:
        """Take `model` if it is nearer, and return whether it is."""
        distance = self.evaluator.value(model)
        nearer = math.isfinite(distance) and distance < self.distance
        self.stages.append(Stage(name, distance, nearer))
        if nearer:
            self.model, self.distance = model, distance
        return nearer


def recovered(
    dense: nn.Module,
    small: nn.Module,
    recipe: Recipe,
    example_inputs: Any,
    data: Any,
    recovery: Recovery,
    *,
    state: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Module, RecoveryFacts]:
    """Return a copy of `small`, which `recipe` made of `dense`, that is nearer to it again, and what was done.

    The models are left as they are. For the other arguments see `torchthin.recover`.

    Raises:
        InputError: data, recipe or models do not fit together.
    """
    for model in (dense, small):
        check_model(model, "recover")
    _require_made_by(recipe, dense, small)
    teacher, current = clone(dense, share), clone(small, duplicate)
    samples = _Samples.of(teacher, example_inputs, data, recovery, progress)
    evaluator = Evaluator(teacher, (samples.tested,))
    before = evaluator.value(current)
    search = _Search(evaluator, current, before)
    reconstruction = _reconstruct(search, teacher, recipe, samples.fitted, progress)
    if not reconstruction.fitted or reconstruction.left:
        calibrated = clone(search.model, duplicate)
        if recalibrate_(calibrated, samples.fitted):
            search.offer("BatchNorm statistics", calibrated)
    if recovery.epochs:
        path = None if state is None else Path(state)
        trained = clone(search.model, duplicate)
        distill_(teacher, trained, recipe, samples.fitted, recovery, state=path, progress=progress)
        search.offer("distillation", trained)
        broadcast_(tensor for _, tensor in state_tensors(search.model))  # rank 0 decides by its inputs
        if path is not None and rank_and_world_size()[0] == 0:
            path.unlink(missing_ok=True)
    return search.model, RecoveryFacts(
        samples.count,
        samples.held_out,
        before,
        search.distance,
        tuple(search.stages),
        len(reconstruction.fitted),
        reconstruction.left,
        samples.notes,
    )


def _reconstruct(
    search: _Search, teacher: nn.Module, recipe: Recipe, inputs: Inputs, progress: Progress | None
) -> Reconstruction:
    """Offer refitted models, first one that makes up for layers that are gone; return what was refitted in what is kept."""
    fitted: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    for name, before_gaps in (("layers before gaps", True), ("reconstruction", False))[not recipe.layers :]:
        made = clone(search.model, duplicate)
        found = reconstruct_(teacher, made, recipe, inputs, before_gaps=before_gaps, progress=progress)
        left = tuple(dict.fromkeys((*left, *found.left)))
        if found.fitted and search.offer(name, made):
            fitted = tuple(dict.fromkeys((*fitted, *found.fitted)))
    return Reconstruction(fitted, left)


@dataclass(frozen=True)
class _Samples:
    """Calibration inputs, on the model's device."""

    fitted: Inputs
    tested: Inputs
    """The inputs that the distance is measured on: held-out ones, or the same."""
    count: int
    held_out: int
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, model: nn.Module, example_inputs: Any, data: Any, recovery: Recovery, progress: Progress | None
    ) -> _Samples:
        """Read the inputs, and hold out the last ones."""
        example = on_device_of(model, as_inputs(example_inputs))
        steps = None if progress is None else (lambda done, total: progress(done, total, "noise", None))
        found = calibration(
            data,
            like=example,
            max_samples=recovery.max_samples,
            pixels=recovery.pixels,
            model=model,
            progress=steps,
        )
        every, count, notes = in_one_pass(model, found)
        held_out = count // HELD_OUT if count >= FEWEST else 0
        fitted = picked(every, torch.arange(count - held_out))
        tested = picked(every, torch.arange(count - held_out, count)) if held_out else fitted
        return cls(fitted, tested, count, held_out, notes)


def in_one_pass(model: nn.Module, found: Calibration) -> tuple[Inputs, int, tuple[str, ...]]:
    """Return the inputs in one batch on the model's device, how many of them one pass may take, and notes."""
    every, notes = on_device_of(model, found.joined()), found.notes
    most = _at_once(model, picked(every, torch.arange(1)))
    if found.samples > most:
        notes += (
            f"{most} of {found.samples} inputs are used: the activations of more take over {AT_ONCE / 2**30:.0f} GiB.",
        )
    return every, min(found.samples, most), notes


def _at_once(model: nn.Module, one: Inputs) -> int:
    """Return how many inputs go through the model in one pass without autograd within `AT_ONCE` bytes."""
    graph = record(clone(model, share), one)
    sizes = [
        math.prod(graph.values[ref.value].shape) for op in graph.ops for ref in op.outputs if ref is not None
    ]
    widest = sum(sorted(sizes)[-4:])
    return max(1, AT_ONCE // max(4 * widest, 1))


def _require_made_by(recipe: Recipe, dense: nn.Module, small: nn.Module) -> None:
    """Raise InputError unless the recipe makes the sizes of `small` of those of `dense`."""
    meta = thin_copy(clone(dense, lambda name, tensor: tensor.detach().to("meta")), recipe)
    wanted = {name: tuple(tensor.shape) for name, tensor in state_tensors(meta)}
    same = saved_names(small) | recipe.keep.keys()  # tensors that runs leave on modules may differ
    for name, tensor in state_tensors(small):
        if name in same and name in wanted and wanted[name] != tuple(tensor.shape):
            raise InputError(
                f"The thinned model has {name} of shape {tuple(tensor.shape)}, the recipe makes {wanted[name]} of the dense "
                "one. Give the model that this recipe made."
            )
