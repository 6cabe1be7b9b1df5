"""Prune any PyTorch model to a sparsity target, make it physically smaller, and prove the result."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torchthin.config import METHODS, PruneConfig
from torchthin.errors import InputError, ProofError, TargetMissedError, TorchthinError

if TYPE_CHECKING:
    from torchthin.pruning.comparison.compare import compare
    from torchthin.pruning.comparison.comparison import Comparison
    from torchthin.pruning.gradual.pruner import Pruner
    from torchthin.pruning.in_place import Thinned, thin_
    from torchthin.pruning.inspection import inspect
    from torchthin.pruning.load import load
    from torchthin.pruning.one_shot import prune
    from torchthin.pruning.recover import recover
    from torchthin.pruning.result import PruneResult
    from torchthin.pruning.sensitivity import sensitivity
    from torchthin.report.inspection import Inspection
    from torchthin.report.pruning import PruneReport
    from torchthin.thinning.proof import Proof, verify
    from torchthin.thinning.recipe import Recipe

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
    "Comparison": "torchthin.pruning.comparison.comparison",
    "Inspection": "torchthin.report.inspection",
    "Proof": "torchthin.thinning.proof",
    "PruneReport": "torchthin.report.pruning",
    "PruneResult": "torchthin.pruning.result",
    "Pruner": "torchthin.pruning.gradual.pruner",
    "Recipe": "torchthin.thinning.recipe",
    "Thinned": "torchthin.pruning.in_place",
    "compare": "torchthin.pruning.comparison.compare",
    "inspect": "torchthin.pruning.inspection",
    "load": "torchthin.pruning.load",
    "prune": "torchthin.pruning.one_shot",
    "recover": "torchthin.pruning.recover",
    "sensitivity": "torchthin.pruning.sensitivity",
    "thin_": "torchthin.pruning.in_place",
    "verify": "torchthin.thinning.proof",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
