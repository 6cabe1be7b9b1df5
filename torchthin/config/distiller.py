"""The target `Distiller`: Distiller's own methods, and how each decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchthin.config.options import MOST_STEPS, check_share, check_whole, option, refuse
from torchthin.config.targets import SHARE, Target
from torchthin.errors import near_matches


@dataclass(frozen=True)
class DistillerMethod:
    """How a pruner of Distiller decides."""

    description: str
    """One line for lists and help texts."""
    norm: str | None
    """What ranks filters or input channels: l1 or l2. None: single weights by magnitude."""
    axis: int = 0
    """0: filters. 1: input channels."""
    agp: bool = False
    """Whether its sparsity grows by AGP."""
    backend: str | None = None
    """Distiller's own class, where `Distiller(backend="distiller")` can run it."""


DISTILLER_METHODS: dict[str, DistillerMethod] = {
    "agp-structured": DistillerMethod(
        "filters of least mean |w|, AGP", "l1", 0, True, "L1RankedStructureParameterPruner_AGP"
    ),
    "l1-structured": DistillerMethod(
        "filters of least mean |w|, at once", "l1", 0, False, "L1RankedStructureParameterPruner"
    ),
    "agp-unstructured": DistillerMethod(
        "single weights of least |w|, AGP", None, 0, True, "AutomatedGradualPruner"
    ),
    "l2-structured": DistillerMethod("filters of least L2 norm, at once", "l2"),
    "agp-l2-structured": DistillerMethod("filters of least L2 norm, AGP", "l2", 0, True),
    "l1-channels": DistillerMethod("input channels of least mean |w|, at once", "l1", 1),
    "agp-l1-channels": DistillerMethod("input channels of least mean |w|, AGP", "l1", 1, True),
    "level": DistillerMethod("single weights of least |w|, at once", None),
}
"""Methods of Distiller that take a sparsity."""


@dataclass(frozen=True)
class Distiller(Target):
    """Distiller's masks bit for bit, ties and overshoot included, every tensor ranked alone.

    `agp_steps` is the range of its AGP methods, which are called at their end; few steps overshoot the target. With
    ``backend="distiller"`` the installed Distiller makes the masks itself.
    """

    method: str = "agp-structured"
    sparsity: float = option(0.5, "--target-sparsity", SHARE, "SHARE")
    agp_steps: int = option(10, "--agp-steps", "steps in which AGP reaches the target (default: 10)", "N")
    backend: str | None = option(
        None, "--backend", "distiller: the installed Distiller makes these masks itself", "TOOL"
    )

    share_name = "sparsity"

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or self.method not in DISTILLER_METHODS:
            hint = near_matches(self.method, DISTILLER_METHODS) if isinstance(self.method, str) else ""
            refuse(self, "method", f"one of {', '.join(DISTILLER_METHODS)}", self.method, hint)
        check_share(self, "sparsity", one=True)
        check_whole(self, "agp_steps", 1, MOST_STEPS)
        if self.backend not in (None, "distiller"):
            refuse(self, "backend", "None or 'distiller'", self.backend)
        own = [name for name, method in DISTILLER_METHODS.items() if method.backend]
        if self.backend and self.method not in own:
            refuse(self, "method", f"one of {', '.join(own)} with backend='distiller'", self.method)

    @property
    def structured(self) -> bool:  # type: ignore[override]
        """Whether whole filters or input channels go."""
        return self.rule.norm is not None

    @property
    def rule(self) -> DistillerMethod:
        """How the method decides."""
        return DISTILLER_METHODS[self.method]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, by their keys in configuration files."""
        return {**super().to_dict(), "compat": "distiller"}
