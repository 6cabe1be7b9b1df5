"""The stages of a recovery: reconstruction, BatchNorm statistics, distillation, each taken only where it brings something."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.errors import InputError
from torchthin.evaluation.evaluator import Evaluator
from torchthin.graph.clone import clone, duplicate, saved_names, share, state_tensors
from torchthin.graph.inputs import Inputs, as_inputs, on_device_of
from torchthin.graph.model import check_model
from torchthin.graph.recorder import record
from torchthin.io.calibration import MAX_SAMPLES, calibration, picked
from torchthin.io.data_sources import Pixels
from torchthin.io.distributed import broadcast_, rank_and_world_size
from torchthin.recovery.batchnorm import recalibrate_
from torchthin.recovery.distillation import Distillation, Progress, distill_
from torchthin.recovery.reconstruction import reconstruct_
from torchthin.report.recovery import RecoveryFacts, Stage
from torchthin.thinning.apply import thin_copy
from torchthin.thinning.recipe import Recipe, check_fits

HELD_OUT = 8
"""One of so many inputs is held out, the last ones, to judge by."""
FEWEST = 32
"""With fewer inputs none is held out."""
AT_ONCE = 3 * 2**30
"""Bytes of activations that one pass over all inputs may take."""


@dataclass(frozen=True)
class Recovery:
    """A recovered model."""

    model: nn.Module = field(repr=False)
    """A copy of the thinned model with what was fitted."""
    facts: RecoveryFacts

    def __str__(self) -> str:
        return str(self.facts)


def recovered(
    dense: nn.Module,
    small: nn.Module,
    recipe: Recipe,
    example_inputs: Any,
    data: Any,
    *,
    limit: int = MAX_SAMPLES,
    pixels: Pixels | None = None,
    how: Distillation,
    state: str | Path | None = None,
    progress: Progress | None = None,
) -> Recovery:
    """Bring a thinned model nearer to the dense one, from inputs without labels. Both are left as they are.

    Args:
        dense: the model before thinning.
        small: the thinned model.
        recipe: what made the one of the other.
        example_inputs: inputs as the models take them.
        data: where inputs come from, see `calibration`.
        limit: most inputs to use.
        pixels: how pictures of a folder become numbers.
        how: the distillation; none with 0 epochs.
        state: file from which an interrupted distillation goes on; removed when it ends.
        progress: told after every epoch.

    Raises:
        InputError: data, recipe or models do not fit together.
    """
    check_model(dense, "recover")
    check_model(small, "recover")
    _refuse_foreign(dense, small, recipe)
    example = on_device_of(dense, as_inputs(example_inputs))
    found = calibration(data, like=example, max_samples=limit, pixels=pixels)
    every = on_device_of(dense, found.joined())
    teacher, current = clone(dense, share), clone(small, duplicate)
    notes = list(found.notes)
    most = _at_once(teacher, picked(every, torch.arange(1)))
    if found.samples > most:
        every = picked(every, torch.arange(most))
        notes.append(
            f"{most} of {found.samples} inputs are used: the activations of more take over {AT_ONCE / 2**30:.0f} GiB."
        )
    samples = min(found.samples, most)
    held = samples // HELD_OUT if samples >= FEWEST else 0
    fitted = picked(every, torch.arange(samples - held))
    evaluator = Evaluator(teacher, (picked(every, torch.arange(samples - held, samples)) if held else every,))
    before = evaluator.value(current)
    search = _Search(evaluator, current, before)
    made = clone(current, duplicate)
    reconstruction = reconstruct_(teacher, made, recipe, fitted)
    if reconstruction.layers:
        search.offer("reconstruction", made)
    renewed = clone(search.model, duplicate)
    if recalibrate_(renewed, fitted):
        search.offer("BatchNorm statistics", renewed)
    if how.epochs:
        trained = clone(search.model, duplicate)
        path = None if state is None else Path(state)
        distill_(teacher, trained, recipe, fitted, how, state=path, progress=progress)
        search.offer("distillation", trained)
        broadcast_(tensor for _, tensor in state_tensors(search.model))  # it judges by its inputs
        if path is not None and rank_and_world_size()[0] == 0:
            path.unlink(missing_ok=True)
    refitted = (
        len(reconstruction.layers)
        if any(s.taken and s.name == "reconstruction" for s in search.stages)
        else 0
    )
    facts = RecoveryFacts(
        samples,
        held,
        before,
        search.distance,
        tuple(search.stages),
        refitted,
        reconstruction.left,
        tuple(notes),
    )
    return Recovery(search.model, facts)


@dataclass
class _Search:
    """Keeps the model that is nearest so far."""

    evaluator: Evaluator
    model: nn.Module
    distance: float
    stages: list[Stage] = field(default_factory=list)

    def offer(self, name: str, model: nn.Module) -> None:
        """Take `model` if it is nearer to the dense one."""
        found = self.evaluator.value(model)
        taken = math.isfinite(found) and found < self.distance
        self.stages.append(Stage(name, found, taken))
        if taken:
            self.model, self.distance = model, found


def _refuse_foreign(dense: nn.Module, small: nn.Module, recipe: Recipe) -> None:
    """Raise InputError unless the recipe makes the sizes of `small` of those of `dense`."""
    check_fits(recipe, dict(state_tensors(dense)), dict(dense.named_modules()))
    meta = thin_copy(clone(dense, lambda name, tensor: tensor.detach().to("meta")), recipe)
    wanted = {name: tuple(tensor.shape) for name, tensor in state_tensors(meta)}
    same = saved_names(small) | recipe.keep.keys()  # of what runs leave on modules the shapes say nothing
    for name, tensor in state_tensors(small):
        if name in same and name in wanted and wanted[name] != tuple(tensor.shape):
            raise InputError(
                f"The thinned model has {name} of shape {tuple(tensor.shape)}, the recipe makes {wanted[name]} of the dense "
                "one. Give the model that this recipe made."
            )


def _at_once(model: nn.Module, one: Inputs) -> int:
    """Return how many inputs go through the model in one pass without autograd within `AT_ONCE` bytes."""
    graph = record(clone(model, share), one)
    sizes = [
        math.prod(graph.values[ref.value].shape) for op in graph.ops for ref in op.outputs if ref is not None
    ]
    widest = sum(sorted(sizes)[-4:])
    return max(1, AT_ONCE // max(4 * widest, 1))
