"""What of a model can be pruned, and what is in the way of the rest, as facts and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchthin.report.tables import table
from torchthin.thinning.proof.verdict import NOT_PROVED

_SHOWN = 4
"""Members of a group, and unused parameters, that are named; of the rest the number is given."""


@dataclass(frozen=True)
class GroupFacts:
    """A dependency group in numbers."""

    name: str
    channels: int
    producers: tuple[str, ...]
    """Weights whose filters are the group's channels."""
    coupled: tuple[str, ...]
    """Every other parameter axis that is cut with them, as ``name[axis]``."""
    balanced: bool
    """Equal numbers must be removed from parts of the group."""
    kind: str = ""
    """What its channels are: a key of `torchthin.dependency.kinds.KINDS`."""


@dataclass(frozen=True)
class KindFacts:
    """All groups of one kind in numbers."""

    kind: str
    meaning: str
    """In words."""
    groups: int
    channels: int
    parameters: float
    """Share of the model's parameters that go with its channels."""


@dataclass(frozen=True)
class FrozenFacts:
    """Filters of a weight that cannot be pruned."""

    weight: str
    channels: int
    """How many of its filters are frozen for this reason."""
    reason: str
    """What is in the way, the operator, the module's path and the line of its code."""


@dataclass(frozen=True)
class LayerChannels:
    """One weight that produces channels, and the groups it has a part in."""

    name: str
    """Of its parameter."""
    kind: str
    """Class of its module."""
    channels: int
    produces: tuple[int, ...]
    """Numbers of the groups that its filters belong to; none where all of them are frozen."""
    consumes: tuple[int, ...]
    """Numbers of the groups that its inputs belong to."""


@dataclass(frozen=True)
class Overview:
    """A network as its layers and groups, for the diagram of the report."""

    layers: tuple[LayerChannels, ...]
    """In the order in which their weights are first read."""
    groups: tuple[GroupFacts, ...]
    frozen: tuple[FrozenFacts, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Inspection:
    """What can be pruned and what cannot."""

    groups: tuple[GroupFacts, ...]
    frozen: tuple[FrozenFacts, ...]
    """Filters of weights that cannot be removed, with op, module and source line."""
    unknown_ops: tuple[str, ...]
    """Operators without a rule that channels reach; their inputs are frozen."""
    unused: tuple[str, ...]
    """Parameters that the recorded run did not read; they are not pruned."""
    tried: bool
    """Whether a trial cut of half of every group ran."""
    proved: bool
    """Whether it agreed with the masked model."""
    kinds: tuple[KindFacts, ...] = ()
    """What can be asked for by kind (``Ratio({"mlp": 0.3})``)."""

    @property
    def prunable(self) -> int:
        """Number of channels in groups that can lose some."""
        return sum(group.channels for group in self.groups if group.channels > 1)

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [*_kind_table(self.kinds), ""] if len(self.kinds) > 1 else []
        lines += [*_group_table(self.groups), ""] if self.groups else []
        return "\n".join([*lines, *_summary(self)])


def _kind_table(kinds: Sequence[KindFacts]) -> list[str]:
    headings = ("kind", "what its channels are", "groups", "channels", "parameters")
    rows = [
        (item.kind, item.meaning, str(item.groups), str(item.channels), f"{100 * item.parameters:.1f} %")
        for item in kinds
    ]
    return table(headings, rows, left=(0, 1))


def _group_table(groups: Sequence[GroupFacts]) -> list[str]:
    headings = ("group", "kind", "channels", "filters of", "cut with them", "equal parts")
    rows = [
        (
            group.name,
            group.kind,
            str(group.channels),
            _some(group.producers),
            _some(group.coupled),
            "yes" if group.balanced else "",
        )
        for group in groups
    ]
    return table(headings, rows, left=(0, 1, 3, 4, 5))


def _summary(inspection: Inspection) -> list[str]:
    count = len(inspection.groups)
    trial = "no trial cut was made"
    if inspection.tried and count:
        agreed = "and agreed with the masked model" if inspection.proved else f"and was {NOT_PROVED}"
        trial = f"a trial cut of half of every group ran {agreed}"
    lines = [f"{count} groups of {inspection.prunable} channels can be pruned; {trial}."]
    if not inspection.prunable:
        lines = ["Nothing can be pruned."]
    lines += [
        f"Frozen: {item.channels} filters of {item.weight}, {item.reason}." for item in inspection.frozen
    ]
    if inspection.unknown_ops:
        lines.append(
            f"Operators without a rule, their inputs are frozen: {', '.join(inspection.unknown_ops)}."
        )
    if inspection.unused:
        lines.append(f"Parameters that the run did not use are not pruned: {_some(inspection.unused)}.")
    return lines


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
