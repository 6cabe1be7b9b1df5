"""Groups that no configuration of a model of transformers describes, found before anything is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from torchthin.config import Budget, Ratio
from torchthin.dependency.groups import Group
from torchthin.dependency.kinds import KINDS
from torchthin.errors import InputError
from torchthin.io.checkpoints.fit import tied_names
from torchthin.io.pretrained.config_search import ConfigSearch
from torchthin.io.pretrained.sizes import Place, Sizes, sizes_of
from torchthin.io.pretrained.undescribed import obstacle
from torchthin.pruning.expert_plans import KIND as EXPERTS
from torchthin.pruning.target_plans import Run, thinning_for
from torchthin.report.sections import Section
from torchthin.selection.selection import Keeps, Selection
from torchthin.thinning.search.trial_loop import ThinningPlan

_SHOWN = 2


@dataclass(frozen=True)
class Undescribed:
    """Groups that are in the way of a configuration."""

    groups: frozenset[str]
    why: str
    """The field or the layers in the way."""
    cure: str

    def note(self, selection: Selection) -> str:
        """Return what stays for that reason, in a line."""
        names = [group.name for group in selection.groups if group.name in self.groups]
        kinds = " and ".join(sorted({selection.kinds.get(name, "channels") for name in names}))
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "")
        return (
            f"Some {kinds} stay ({shown}), so that a configuration describes the rest: {self.why}. Without even=True (--even) "
            "they go too."
        )


def plan_described(run: Run) -> tuple[ThinningPlan, tuple[Section, ...], tuple[str, ...]]:
    """Return what `thinning_for` does, and a note; of even cuts those groups stay that no configuration describes.

    Where that would be all that is cut, or all of a kind that was asked for, nothing is changed but the note says why.

    Raises:
        InputError, TargetMissedError, ProofError: see `thinning_for`.
    """
    target = run.config.target
    thinning, sections = thinning_for(target, run)
    selection = thinning.proposal.selection
    even = isinstance(target, Ratio | Budget) and target.even and run.config.thin
    if not even or not thinning.recipe or EXPERTS in run.choice.asked:
        return thinning, sections, ()
    found = undescribed(run.traced.model, selection)
    if found is None:
        return thinning, sections, ()
    rest = _cut(selection).keys() - found.groups
    left_out, stay = ({selection.kinds.get(name, "") for name in names} for names in (found.groups, rest))
    if not rest or not (left_out - stay).isdisjoint(run.choice.asked) or run.choice.asked - KINDS.keys():
        name = type(run.traced.model).__name__
        return (
            thinning,
            sections,
            (f"No configuration describes the {name} that this makes: {found.why}. {found.cure}.",),
        )
    thinning, sections = thinning_for(target, replace(run, undescribed=found.groups))
    return thinning, sections, (found.note(selection),)


def undescribed(model: Any, selection: Selection) -> Undescribed | None:
    """Return which of the groups that are cut no configuration describes; None where one describes all, or none is to blame.

    The sizes that the cut leaves are looked for as `save_pretrained` does. Where no configuration gives them, the groups of
    tensors that the closest one has otherwise are taken out, until one is found for the rest.
    """
    if not all(hasattr(model, name) for name in ("config", "from_pretrained", "save_pretrained")):
        return None
    names = _Names(model)
    cut = _cut(selection)
    blamed = set[str]()
    why: tuple[str, str] | None = None
    while cut:
        search = ConfigSearch(model, names.sizes_after(cut.values(), selection.keeps))
        try:
            if next(search.found(), None) is not None:
                break
        except InputError:  # the class cannot be built from its own configuration: saving says so
            return None
        wrong = {item.place for item in search.closest.saved}
        found = {name for name, group in cut.items() if not wrong.isdisjoint(names.places(group))}
        if not found:
            return None
        why = why or obstacle(model, search, search.closest)
        blamed |= found
        cut = {name: group for name, group in cut.items() if name not in found}
    return None if why is None else Undescribed(frozenset(blamed), *why)


def _cut(selection: Selection) -> dict[str, Group]:
    return {group.name: group for group in selection.groups if not selection.keeps[group.name].all()}


class _Names:
    """The sizes of a model, by all names of tied tensors."""

    def __init__(self, model: nn.Module) -> None:
        self._sizes = sizes_of(model)
        self._ties: Mapping[str, list[str]] = {names[0]: names for names in tied_names(model)}

    def places(self, group: Group) -> set[Place]:
        """Return the axes that a group is removed from."""
        return {(name, m.axis) for m in group.members for name in self._ties.get(m.parameter, [m.parameter])}

    def sizes_after(self, groups: Iterable[Group], keeps: Keeps) -> Sizes:
        """Return the sizes after these groups are cut."""
        removed: dict[Place, set[int]] = {}
        for group in groups:
            for m in group.members:
                gone = m.removed(keeps[group.name]).tolist()
                for name in self._ties.get(m.parameter, [m.parameter]):
                    removed.setdefault((name, m.axis), set()).update(gone)
        saved = {place: size - len(removed.get(place, ())) for place, size in self._sizes.saved.items()}
        return Sizes(saved, self._sizes.kept)
