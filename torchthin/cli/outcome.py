"""What a command does with its result: say it, save it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.pruning.checkpoint import save_pruned

if TYPE_CHECKING:
    from torchthin.config import PruneConfig
    from torchthin.io.checkpoints import Checkpoint
    from torchthin.pruning.result import PruneResult
    from torchthin.thinning.recipe import Recipe


class Voice:
    """Prints what a run has to say; quiet when asked to be."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: object) -> None:
        """Print one thing on stdout."""
        if not self._quiet:
            print(text)

    def say_source(self, checkpoint: Checkpoint) -> None:
        """Say what was read, and what of it was left out."""
        self.say(f"Read {checkpoint.path} (epoch {checkpoint.epoch}).")
        if checkpoint.skipped:
            self.say(
                f"Not read, since loading foreign classes can run code: {', '.join(checkpoint.skipped)}."
            )


def save(
    path: Path,
    result: PruneResult,
    config: PruneConfig,
    *,
    source: str,
    checkpoint: Checkpoint | None,
    arch: str | None = None,
    extras: dict[str, Any] | None = None,
) -> None:
    """Write the pruned model with what its source told: epoch, arch and extras.

    Raises:
        CheckpointError: the file cannot be written; what was there before is untouched.
    """
    save_pruned(
        path,
        _in_source_dtypes(result.model.state_dict(), checkpoint),
        result.masks,
        result.report,
        config,
        whole_recipe(result if config.thin else None, checkpoint),
        source=source,
        epoch=checkpoint.epoch if checkpoint else 0,
        arch=arch or (checkpoint.arch if checkpoint else None),
        extras={**(checkpoint.extras if checkpoint else {}), **(extras or {})},
    )


def whole_recipe(thinned: PruneResult | None, checkpoint: Checkpoint | None) -> Recipe | None:
    """Return what leads from the user's full-size class to the result: a thinned source carries the first part."""
    from torchthin.pruning.checkpoint import stored_recipe

    earlier = stored_recipe(checkpoint) if checkpoint else None
    recipe = thinned.recipe if thinned else None
    if earlier is None or recipe is None:
        return recipe or earlier
    return earlier.then(recipe)


def _in_source_dtypes(state: dict[str, Any], checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Give each tensor its dtype in the source, such as bfloat16, wherever that changes no value."""
    import torch

    def stored(name: str, value: Any) -> Any:
        before = checkpoint.state_dict.get(name) if checkpoint else None
        if (
            not isinstance(value, torch.Tensor)
            or not isinstance(before, torch.Tensor)
            or before.dtype == value.dtype
        ):
            return value
        there = value.to(before.dtype)
        return there if torch.equal(there.to(value.dtype), value) else value

    return {name: stored(name, value) for name, value in state.items()}
