"""Prune any PyTorch model to a sparsity target, make it physically smaller, and prove the result."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torchthin.config import METHODS, PruneConfig
from torchthin.errors import (
    CheckpointError,
    ConfigError,
    FactoryError,
    InputError,
    ProofError,
    TargetMissedError,
    TorchthinError,
    WeightNameError,
)

if TYPE_CHECKING:
    from torchthin.pipeline import PruneResult, prune
    from torchthin.report.facts import LayerFacts, PruneReport

__all__ = [
    "METHODS",
    "CheckpointError",
    "ConfigError",
    "FactoryError",
    "InputError",
    "LayerFacts",
    "ProofError",
    "PruneConfig",
    "PruneReport",
    "PruneResult",
    "TargetMissedError",
    "TorchthinError",
    "WeightNameError",
    "prune",
]

# What needs torch is imported at first use, so that `torchthin --help` answers without it.
_LAZY = {
    "LayerFacts": "torchthin.report.facts",
    "PruneReport": "torchthin.report.facts",
    "PruneResult": "torchthin.pipeline",
    "prune": "torchthin.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
