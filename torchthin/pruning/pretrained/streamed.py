"""A plan carried out into a folder of transformers, tensor by tensor: the thinned model is never in memory as a whole."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from torchthin.graph.clone import saved_names, state_tensors
from torchthin.io.checkpoints.stream import size_in_bytes
from torchthin.pruning.plan import PruningPlan
from torchthin.pruning.pretrained.files import check_folder, write_folder
from torchthin.pruning.pretrained.save import Candidates, Contents, candidates, check_pretrained
from torchthin.pruning.pretrained.weights import Weights, saved_forms
from torchthin.pruning.result import PruneResult
from torchthin.report.record import version
from torchthin.thinning.thinned import ThinnedTensors


def save_plan(
    plan: PruningPlan,
    folder: str | Path,
    *,
    described: bool,
    max_shard_size: int | str,
    source: str | None = None,
) -> PruneResult:
    """Do what `PruningPlan.save_pretrained` says.

    Args:
        plan: what is carried out.
        folder: new or empty.
        described: as `save_pretrained` takes it.
        max_shard_size: as `save_pretrained` takes it.
        source: another text for another model. A call of the same that was interrupted is then continued.
    """
    check_pretrained(plan.model, "save_pretrained")
    size_in_bytes(max_shard_size)
    by_tensor = plan.is_thinned_by_tensor and plan.refit is None
    streamed = _Streamed.of(plan, described, max_shard_size) if by_tensor else None
    if streamed is None:
        result = plan.apply()
        result.save_pretrained(folder, described=described, max_shard_size=max_shard_size)
        return result
    return streamed.write(check_folder(folder), source)


class _Streamed:
    """A plan's thinned model without values, and how its files get theirs."""

    def __init__(self, plan: PruningPlan, skeleton: nn.Module, weights: Weights, *, described: bool) -> None:
        self._plan, self._skeleton, self._weights, self._described = plan, skeleton, weights, described

    @classmethod
    def of(cls, plan: PruningPlan, described: bool, max_shard_size: int | str) -> _Streamed | None:
        """Return what is to be written; None where the class writes other tensors than it has."""
        assert plan.thinning is not None
        tensors = ThinnedTensors(plan.model, plan.thinning, plan.masks)
        skeleton = tensors.skeleton(saved_names(plan.model))
        forms = saved_forms(skeleton, described=described)
        if forms is None:
            return None
        names = {id(tensor): name for name, tensor in state_tensors(skeleton)}
        weights = Weights(forms, lambda form: tensors[names[id(form)]].to(form.dtype), max_shard_size)
        return cls(plan, skeleton, weights, described=described)

    def write(self, target: Path, source: str | None) -> PruneResult:
        """Write the folder, and return the result whose weights lie in it."""
        found = candidates(
            self._skeleton, self._plan.inputs, described=self._described
        )  # or it is refused here
        results = list[PruneResult]()

        def write(made: Path) -> None:
            results.append(self._written(made, found))

        write_folder(target, write, None if source is None else self._contents(source))
        return results[0]

    def _written(self, made: Path, found: Candidates) -> PruneResult:
        self._weights.write(made)
        result = self._plan.result_of(self._weights.mapped(self._skeleton, made))
        Contents(result.model, result.report, self._weights, self._described).write_right(made, found)
        return result

    def _contents(self, source: str) -> str:
        """Return a text that is another one wherever other files would be written."""
        plan = self._plan
        recipe = None if plan.recipe is None else plan.recipe.to_dict()
        files = {shard.file: shard.names for shard in self._weights.shards}
        return json.dumps([version(), source, plan.config.to_dict(), recipe, files], default=str)
