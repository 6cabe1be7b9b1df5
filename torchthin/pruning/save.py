"""A pruned model as a checkpoint: what the command line and `PruneResult.save` write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchthin.config import PruneConfig
from torchthin.io.checkpoints import PrunedCheckpoint, write_checkpoint
from torchthin.report.pruning import PruneReport
from torchthin.report.version import version
from torchthin.thinning.recipe import Recipe


def save_pruned(
    path: str | Path,
    state_dict: Mapping[str, Any],
    masks: Mapping[str, Tensor],
    report: PruneReport,
    config: PruneConfig,
    recipe: Recipe | None,
    *,
    source: str,
    epoch: int = 0,
    arch: str | None = None,
    extras: Mapping[str, Any] | None = None,
) -> None:
    """Write a pruned model, whole or not at all.

    Args:
        path: a torch file, or safetensors by its ending.
        state_dict: of the pruned model.
        masks: weight name -> bool tensor, True = keep.
        report: what was achieved.
        config: what was asked for.
        recipe: what leads from the full-size class to the model; None for a model of full size.
        source: where the weights came from.
        epoch: of the source.
        arch: the architecture's name in ai8x-training.
        extras: entries of the source to hand on.

    Raises:
        CheckpointError: the file cannot be written; what was there before is untouched.
    """
    entry: dict[str, Any] = {
        "version": version(),
        "config": {**config.to_dict(), "target_sparsity": report.target_sparsity},
        "report": report.to_dict(),
    }
    if recipe is not None:
        entry["recipe"] = recipe.to_dict()
    contents = PrunedCheckpoint(
        state_dict, masks, report.target_sparsity, config.method, source, epoch, arch, extras or {}, entry
    )
    write_checkpoint(path, contents)
