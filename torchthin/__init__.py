"""Prune any PyTorch model to a sparsity target, make it physically smaller, and prove the result."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torchthin.config import NM, Budget, Distiller, PruneConfig, Ratio, Recovery, Schedule, Unstructured
from torchthin.errors import InputError, ProofError, TargetMissedError, TorchthinError

if TYPE_CHECKING:
    from torchthin.api import (
        bench,
        compare,
        export,
        inspect,
        list_chips,
        list_criteria,
        load,
        load_mapped,
        plan,
        prune,
        recover,
        register_channel_criterion,
        register_criterion,
        register_op,
        save,
        sensitivity,
        thin_,
        verify,
    )
    from torchthin.max7800x.target import Chip
    from torchthin.pruning.comparison.comparison import Comparison
    from torchthin.pruning.gradual.pruner import Pruner
    from torchthin.pruning.in_place import Thinned
    from torchthin.pruning.plan import PruningPlan
    from torchthin.pruning.result import PruneResult
    from torchthin.report.inspection import Inspection
    from torchthin.report.prune_report import PruneReport
    from torchthin.thinning.proof.verdict import Proof
    from torchthin.thinning.recipe import Recipe

# What needs torch is imported at first use, so that `torchthin --help` answers without it.
_API = (
    "bench", "compare", "export", "inspect", "list_chips", "list_criteria", "load", "load_mapped", "plan", "prune",
    "recover", "register_channel_criterion", "register_criterion", "register_op", "save", "sensitivity", "thin_", "verify",
)  # fmt: skip
_LAZY = {
    **dict.fromkeys(_API, "torchthin.api"),
    "Chip": "torchthin.max7800x.target",
    "Comparison": "torchthin.pruning.comparison.comparison",
    "Inspection": "torchthin.report.inspection",
    "Proof": "torchthin.thinning.proof.verdict",
    "PruneReport": "torchthin.report.prune_report",
    "PruneResult": "torchthin.pruning.result",
    "Pruner": "torchthin.pruning.gradual.pruner",
    "PruningPlan": "torchthin.pruning.plan",
    "Recipe": "torchthin.thinning.recipe",
    "Thinned": "torchthin.pruning.in_place",
}

__all__ = [
    "NM",
    "Budget",
    "Chip",
    "Comparison",
    "Distiller",
    "InputError",
    "Inspection",
    "Proof",
    "ProofError",
    "PruneConfig",
    "PruneReport",
    "PruneResult",
    "Pruner",
    "PruningPlan",
    "Ratio",
    "Recipe",
    "Recovery",
    "Schedule",
    "TargetMissedError",
    "Thinned",
    "TorchthinError",
    "Unstructured",
    "bench",
    "compare",
    "export",
    "inspect",
    "list_chips",
    "list_criteria",
    "load",
    "load_mapped",
    "plan",
    "prune",
    "recover",
    "register_channel_criterion",
    "register_criterion",
    "register_op",
    "save",
    "sensitivity",
    "thin_",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("torchthin.report.record").version()
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
