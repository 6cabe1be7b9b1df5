"""`recover`: accuracy for a thinned model, from inputs without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from torchthin.config import Recovery
from torchthin.errors import ConfigError
from torchthin.pruning.result import PruneResult
from torchthin.recovery.progress import Progress
from torchthin.recovery.stages import recovered

_DEFAULTS = Recovery()


def recover(
    dense: nn.Module,
    pruned: PruneResult,
    example_inputs: Any,
    data: Any,
    *,
    recovery: Recovery = _DEFAULTS,
    state: str | Path | None = None,
    progress: Progress | None = None,
) -> PruneResult:
    """Return `pruned` with a model that is nearer to the dense one again. What is given is left as it is.

    Every layer of the thinned model is refitted to the dense model's own values at its place, in closed form; BatchNorm
    statistics are recalibrated; with ``recovery.epochs``, the model then learns from the dense one's outputs. No step needs
    labels. After each step the distance of the outputs on held-out inputs is measured, and the step is undone if it does not
    lower it; ``report.recovery`` has the distances.

    Args:
        dense: the model that was given to `prune`.
        pruned: what ``prune(..., thin=True)`` returned.
        example_inputs: inputs as the model takes them: a tensor, a tuple of positional or a dict of keyword arguments.
            None: those that `prune` had.
        data: a tensor (n, ...), a loader, a ``.npy`` or ``.pt`` file, a folder of pictures, or
            ``"package.module:function"``; labels among them are left out.
        recovery: how many epochs, which loss and learning rate, how many inputs: ``Recovery(epochs=20)``.
        state: file from which an interrupted distillation continues; it is removed when the distillation ends.
        progress: called with (done, in all, ``"noise"``, ``"layers"`` or ``"epochs"``, loss) after every step that fits noise to
            the model, every layer that was looked at, and every epoch; loss: the mean one of the epoch, else None.

    Returns:
        the same masks and recipe with the recovered model; its ``save`` writes a checkpoint.

    Raises:
        InputError: nothing was thinned, or data and models do not fit together.
    """
    _check_order(dense, pruned)
    if pruned.recipe is None or not pruned.config.thin:
        raise ConfigError(
            "The pruned of recover must be a thinned model. Call prune with thin=True (on the command line --thin)."
        )
    example_inputs = pruned.inputs if example_inputs is None else example_inputs
    model, facts = recovered(
        dense, pruned.model, pruned.recipe, example_inputs, data, recovery, state=state, progress=progress
    )
    return replace(pruned, model=model, report=replace(pruned.report, recovery=facts))


def _check_order(dense: Any, pruned: Any) -> None:
    """Raise `ConfigError` for arguments that are swapped, or a plain model for what `prune` returned."""
    if not isinstance(dense, nn.Module) or not isinstance(pruned, PruneResult):
        got = f"{type(dense).__name__} and {type(pruned).__name__}"
        raise ConfigError(
            f"recover takes the dense model, then what prune returned: recover(net, result, ...). Got {got}."
        )
