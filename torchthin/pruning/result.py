"""What `prune` returns."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.graph.inputs import Inputs
from torchthin.pruning.pretrained.save import SHARD, write_pretrained
from torchthin.pruning.save_and_load import save_pruned
from torchthin.report.prune_report import PruneReport
from torchthin.thinning.history import recipe_of
from torchthin.thinning.proof.verdict import Proof
from torchthin.thinning.recipe import Recipe


@dataclass(frozen=True, repr=False)
class PruneResult:
    """What `prune` returns; printing it gives the report's table."""

    model: nn.Module = field(repr=False)
    """A copy of the caller's model: thinned when that was asked, else with the masked weights at zero."""
    masks: Mapping[str, Tensor] = field(repr=False)
    """Weight name (seldom bias name) -> bool tensor of its shape, True = keep."""
    report: PruneReport
    recipe: Recipe | None = field(default=None, repr=False)
    """What thins the model; None without example inputs or when nothing can be removed."""
    proof: Proof | None = None
    """How masked and thinned model compare; None where nothing was removed, or compared (``proof="off"``)."""
    config: PruneConfig = field(default_factory=PruneConfig, repr=False)
    """What was asked for."""
    inputs: Inputs | None = field(default=None, repr=False)
    """The example inputs, on which `save_pretrained` compares what it wrote."""

    def save(self, path: str | Path) -> None:
        """Write the checkpoint that ``--save-to`` writes; `load` reads it into a full-size instance of the class.

        The file (a torch file that loads with ``weights_only=True``, or safetensors by its ending) appears whole.

        Raises:
            CheckpointError: the file cannot be written; what was there before is untouched.
        """
        recipe = recipe_of(self.model) or (self.recipe if self.config.thin else None)
        state = self.model.state_dict()
        source = type(self.model).__name__
        save_pruned(path, state, self.masks, self.report, self.config, recipe, source=source)

    def save_pretrained(
        self, folder: str | Path, *, described: bool = True, max_shard_size: int | str = SHARD
    ) -> None:
        """Write a folder that the model's own ``from_pretrained`` loads without this package, with a model card.

        See `torchthin.integrations.transformers.save_pretrained`, whose arguments and errors these are.
        """
        write_pretrained(
            self.model, folder, self.inputs, self.report, described=described, max_shard_size=max_shard_size
        )

    def __str__(self) -> str:
        return str(self.report)

    def __repr__(self) -> str:
        sizes, verdict = f"{self.report.parameters:,} parameters", "not thinned"
        if (thinned := self.report.thinned) is not None:
            sizes = f"{thinned.before.parameters:,} -> {thinned.after.parameters:,} parameters"
            verdict = thinned.verdict or "nothing was removed"
        return f"<{type(self).__name__} of {type(self.model).__name__}: {sizes}, {verdict}>"

    def _repr_html_(self) -> str:
        """Show the report in a notebook."""
        return f"<pre>{html.escape(str(self.report))}</pre>"
