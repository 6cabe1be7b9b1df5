"""What a recovery did, as numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One step of a recovery and where it led."""

    name: str
    distance: float
    """Of the outputs from the dense ones, on inputs that nothing was fitted to: 0 equal, 1 no better than their mean."""
    taken: bool
    """Whether the model went on from here; a step that brings nothing is taken back."""


@dataclass(frozen=True)
class RecoveryFacts:
    """How a thinned model was brought back towards the dense one."""

    samples: int
    """Calibration inputs that were used."""
    held_out: int
    """Of those, inputs on which only distances were measured; 0: there were too few, and the distances are of the fitted ones."""
    before: float
    after: float
    stages: tuple[Stage, ...]
    refitted: int
    """Layers with new weights."""
    left: tuple[str, ...]
    """What could not be refitted, with the reason."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        lists = {"left": list(self.left), "notes": list(self.notes)}
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages], **lists}

    def __str__(self) -> str:
        tested = f"{self.held_out} held-out inputs" if self.held_out else "the same inputs"
        steps = ", ".join(
            f"{stage.name} {stage.distance:.3g}{'' if stage.taken else ' (not taken)'}"
            for stage in self.stages
        )
        return (
            f"Recovered from {self.samples} inputs without labels: distance from the dense outputs on {tested} "
            f"{self.before:.3g} -> {self.after:.3g} ({steps}); {self.refitted} layers refitted."
        )
