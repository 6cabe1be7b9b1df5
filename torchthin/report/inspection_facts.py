"""Facts about what of a model can be pruned, and what is in the way of the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GroupFacts:
    """A group in numbers."""

    name: str
    channels: int
    makers: tuple[str, ...]
    """Weights whose filters are the group's channels."""
    followers: tuple[str, ...]
    """Every other parameter axis that is cut with them, as ``name[axis]``."""
    balanced: bool
    """Equal numbers must go from parts of the group."""


@dataclass(frozen=True)
class FrozenFacts:
    """Channels of a weight that stay."""

    weight: str
    channels: int
    """How many of its filters stay for this reason."""
    reason: str
    """What is in the way, the operator, the module's path and the line of its code."""


@dataclass(frozen=True)
class Inspection:
    """What can be pruned and what cannot."""

    groups: tuple[GroupFacts, ...]
    frozen: tuple[FrozenFacts, ...]
    """Filters of weights that make channels and may not go, with op, module and source line."""
    unknown_ops: tuple[str, ...]
    """Operators without a rule that met channels; what went in is frozen."""
    unused: tuple[str, ...]
    """Parameters that the recorded run did not read; they stay whole."""
    proved: bool
    """Whether a trial cut of half of every group ran and agreed with the masked model."""

    @property
    def prunable(self) -> int:
        """Number of channels in groups from which something can go."""
        return sum(group.channels for group in self.groups if group.channels > 1)

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        from torchthin.report.inspection_text import inspection_text

        return inspection_text(self)
