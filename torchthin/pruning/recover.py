"""`recover`: accuracy for a thinned model, from inputs without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from torchthin.errors import ConfigError
from torchthin.io.calibration import MAX_SAMPLES
from torchthin.io.data_sources import Pixels
from torchthin.pruning.result import PruneResult
from torchthin.recovery.distillation import RATE, WARM_UP, Distillation, Progress
from torchthin.recovery.stages import recovered


def recover(
    dense: nn.Module,
    pruned: PruneResult,
    example_inputs: Any,
    data: Any,
    *,
    limit: int = MAX_SAMPLES,
    pixels: Pixels | None = None,
    epochs: int = 0,
    outputs: str = "values",
    rate: float = RATE,
    seed: int = 0,
    mix: bool = True,
    warm_up: float = WARM_UP,
    state: str | Path | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Return `pruned` with a model that is nearer to the dense one again. What is given is left as it is.

    Every layer of the thinned model is refitted to the dense model's own values at its place, in closed form;
    BatchNorm statistics are taken anew; with `epochs`, the model then learns from the dense one's outputs. No step needs
    labels. Each is judged by the distance of the outputs on inputs that were held out, and taken back where it brings
    nothing; ``report.recovery`` has the distances.

    Args:
        dense: the model that was given to `prune`.
        pruned: what ``prune(..., thin=True)`` returned.
        example_inputs: inputs as the model takes them: a tensor, a tuple of positional or a dict of keyword arguments.
        data: a tensor (n, ...), a loader, a ``.npy`` or ``.pt`` file, a folder of pictures, or
            ``"package.module:function"``; labels among them are left out.
        limit: most inputs to use.
        pixels: how pictures of a folder become numbers.
        epochs: of distillation; 0: none.
        outputs: "values" (mean squared error), or "logits" (Kullback-Leibler divergence) for scores of classes.
        rate: of AdamW, at its highest.
        seed: of shuffling and mixing.
        mix: whether inputs are mixed in pairs. Good where inputs are few; not for tasks that find places in a picture.
        warm_up: share of the steps over which the rate grows from nothing, in [0, 1): at the full rate the first steps
            move a refitted model away before they bring it back.
        state: file from which an interrupted distillation goes on; it is removed when the distillation ends.
        progress: told (epochs done, epochs in all, loss) after every epoch.

    Returns:
        the same masks and recipe with the recovered model; its ``save`` writes a checkpoint.

    Raises:
        InputError: nothing was thinned, or data and models do not fit together (`ConfigError`: an option is wrong).
    """
    if pruned.recipe is None or not pruned.config.thin:
        raise ConfigError(
            "The pruned of recover must be a thinned model. Call prune with thin=True (on the command line --thin)."
        )
    how = Distillation(epochs, rate=rate, outputs=outputs, seed=seed, mix=mix, warm_up=warm_up)
    found = recovered(
        dense, pruned.model, pruned.recipe, example_inputs, data,
        limit=limit, pixels=pixels, how=how, state=state, progress=progress,
    )  # fmt: skip
    return replace(pruned, model=found.model, report=replace(pruned.report, recovery=found.facts))
