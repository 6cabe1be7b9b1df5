"""Facts about a model on a chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchthin.max7800x.cost.network import NetworkCost


@dataclass(frozen=True)
class ChipReport:
    """What a model costs on a chip, and what of it does not run there."""

    cost: NetworkCost
    """Of the layers that map."""
    unmapped: tuple[str, ...]
    """What stands between layers and has no place on the chip: module path, operator, reason."""
    outside: tuple[str, ...]
    """What the host computes behind the network; not counted."""
    notes: tuple[str, ...]
    """Layers that look different on the chip."""

    @property
    def fits(self) -> bool:
        """Whether all of the model maps and no limit is violated."""
        return self.cost.fits and not self.unmapped

    @property
    def obstacles(self) -> tuple[str, ...]:
        """All that is in the way, one line each."""
        return (*self.unmapped, *self.cost.violations)

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return {
            **self.cost.to_dict(),
            "fits": self.fits,
            "unmapped": list(self.unmapped),
            "outside": list(self.outside),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        from torchthin.max7800x.report_text import chip_text

        return chip_text(self)


@dataclass(frozen=True)
class ChipChange:
    """A cut that was chosen for a chip."""

    asked: str
    """The targets, in words."""
    before: NetworkCost
    after: NetworkCost
    uniform: NetworkCost
    """Had the same share of every group gone, for at least as many weights removed."""
    uniform_share: float
    """That share of the channels."""
    channels: int
    """Channels that could be decided about, coupled ones counted once."""
    channels_gone: int
    sparsity_asked: float = 0.0
    """Least share of them that had to go."""

    @property
    def key(self) -> str:
        """Its key in the JSON of a pruning report."""
        return "chip"

    @property
    def choice(self) -> str:
        """How the channels were chosen."""
        return f"chosen for {self.before.chip}"

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        costs = {"before": self.before, "after": self.after, "uniform": self.uniform}
        return {
            "asked": self.asked,
            "uniform_share": self.uniform_share,
            "sparsity_asked": self.sparsity_asked,
            "channels": self.channels,
            "channels_gone": self.channels_gone,
            **{name: cost.to_dict() for name, cost in costs.items()},
        }

    def __str__(self) -> str:
        from torchthin.max7800x.report_text import change_text

        return change_text(self)
