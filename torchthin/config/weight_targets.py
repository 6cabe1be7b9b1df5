"""Targets of single weights: a share of them, or n of every m."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchthin.config.options import check_whole, option, refuse
from torchthin.config.targets import AT_LEAST, SCOPE, SHARE, Target


@dataclass(frozen=True)
class Unstructured(Target):
    """Set a share of the single weights to zero: ``floor(sparsity * numel)`` of each tensor, or of all (``scope="global"``)."""

    sparsity: float = option(0.5, "--target-sparsity", SHARE, "SHARE")
    scope: str = option("group", "--scope", SCOPE)
    at_least: float | None = option(None, "--keep-at-least", AT_LEAST, "SHARE")

    structured = False
    default_criterion = "magnitude"
    share_name = "sparsity"
    grows = True

    def __post_init__(self) -> None:
        self.check_common()


@dataclass(frozen=True)
class NM(Target):
    """Keep n of every m neighbouring weights along the input dimension, as sparse tensor cores want them (2:4)."""

    n: int = 2
    m: int = 4

    structured = False
    default_criterion = "magnitude"

    def __post_init__(self) -> None:
        check_whole(self, "n", 1)
        check_whole(self, "m", 2)
        if self.n >= self.m:
            refuse(self, "n", f"below m, which is {self.m}", self.n)

    @property
    def share(self) -> float:
        """Share of the weights that is asked for."""
        return 1 - self.n / self.m

    def units(self, size: int, share: float | None = None) -> int:
        """Return how many of `size` weights are set to zero."""
        return size // self.m * (self.m - self.n)

    def to_dict(self) -> dict[str, Any]:
        """Return the pattern and what it stands for, by their keys in configuration files."""
        return {"target_sparsity": self.share, "pattern": f"{self.n}:{self.m}"}
