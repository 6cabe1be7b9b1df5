"""Prune any PyTorch model to a sparsity target, make it physically smaller, and prove the result."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torchthin.config import METHODS, PruneConfig
from torchthin.errors import InputError, ProofError, TargetMissedError, TorchthinError

if TYPE_CHECKING:
    from torchthin.comparing.comparison import Comparison
    from torchthin.comparing.running import compare
    from torchthin.in_place import Thinned, thin_
    from torchthin.inspection import inspect
    from torchthin.pipeline.pruning import prune
    from torchthin.pipeline.result import PruneResult
    from torchthin.proof import Proof, verify
    from torchthin.pruner import Pruner
    from torchthin.recovering import recover
    from torchthin.reload import load
    from torchthin.report.facts import PruneReport
    from torchthin.report.inspection_facts import Inspection
    from torchthin.thinning.recipe import Recipe
    from torchthin.where_to_cut import sensitivity

__all__ = [
    "METHODS",
    "Comparison",
    "InputError",
    "Inspection",
    "Proof",
    "ProofError",
    "PruneConfig",
    "PruneReport",
    "PruneResult",
    "Pruner",
    "Recipe",
    "TargetMissedError",
    "Thinned",
    "TorchthinError",
    "compare",
    "inspect",
    "load",
    "prune",
    "recover",
    "sensitivity",
    "thin_",
    "verify",
]

# What needs torch is imported at first use, so that `torchthin --help` answers without it.
_LAZY = {
    "Comparison": "torchthin.comparing.comparison",
    "Inspection": "torchthin.report.inspection_facts",
    "Proof": "torchthin.proof",
    "PruneReport": "torchthin.report.facts",
    "PruneResult": "torchthin.pipeline.result",
    "Pruner": "torchthin.pruner",
    "Recipe": "torchthin.thinning.recipe",
    "Thinned": "torchthin.in_place",
    "compare": "torchthin.comparing.running",
    "inspect": "torchthin.inspection",
    "load": "torchthin.reload",
    "prune": "torchthin.pipeline.pruning",
    "recover": "torchthin.recovering",
    "sensitivity": "torchthin.where_to_cut",
    "thin_": "torchthin.in_place",
    "verify": "torchthin.proof",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
