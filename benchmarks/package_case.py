"""One model of a package that nobody here tuned for: built, pruned by half, held against its masks, trained a step."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from independent import as_double, held_apart, wrong
from torch import nn
from zoo.candidates import Candidate
from zoo.case import Inputs, outputs_of, train_step

from torchthin import PruneResult, prune

SHARE = 0.5
"""Share of the channels that go."""
ROUNDED = 1e-5
"""What may be rounding where constants are held in float32."""


def measure_candidate(candidate: Candidate, seed: int, exact: bool = False) -> dict[str, Any]:
    """Return one row: plain JSON data. Its stage says how far a model came that is not ok."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row: dict[str, Any] = {"ok": False, "stage": "build", "seed": seed, "torch": torch.__version__}
    row |= {"exact_asked": True} if exact else {}
    try:
        model, inputs = candidate.build(seed)
        row |= {"stage": "forward", "parameters": _parameters(model)}
        start = time.process_time()
        outputs_of(model, inputs)
        row |= {"forward_s": time.process_time() - start, "stage": "prune"}
        _pruned(model, inputs, row, exact)
    except Exception as error:  # whatever a model raises is the result of this case
        lines = str(error).strip().splitlines() or [""]
        return {**row, "message": f"{type(error).__name__}: {lines[0]}"[:300]}
    return {**row, "ok": True, "stage": "done"}


def _pruned(model: nn.Module, inputs: Inputs, row: dict[str, Any], exact: bool) -> None:
    start = time.process_time()
    result = prune(model, inputs, SHARE, include=["*"], exact=exact)
    row |= {
        "prune_s": time.process_time() - start,
        "notes": [_shortened(note) for note in result.report.notes[:6]],
    }
    if result.proof is None:
        raise ValueError("nothing was removed: " + (result.report.notes or ("no note",))[0])
    row |= {
        "stage": "proof",
        "parameters_left": _parameters(result.model),
        "verdict": result.proof.verdict,
        "error_masked": result.proof.relative_to_masked,
        "inexact": len(result.proof.inexact),
    }
    if not result.proof.holds or (exact and not result.proof.exact):
        raise ValueError(str(result.proof))
    row["stage"] = "independent check"
    _checked(model, inputs, result, row)
    row["stage"] = "train"
    _trained(model, result.model, inputs)


def _shortened(note: str) -> str:
    """Return the start of a note, with the files that it names as they lie in their package."""
    for folder in sorted(filter(None, sys.path), key=len, reverse=True):
        note = note.replace(f"{folder}/", "")
    return note[:200]


def _checked(model: nn.Module, inputs: Inputs, result: PruneResult, row: dict[str, Any]) -> None:
    """Hold a result against the masks.

    Biases that took over constants are rounded to their type: what is apart by no more is pruned again in float64.
    """
    assert result.proof is not None
    row |= held_apart(model, result.model, result.masks, inputs)
    error = wrong(row, result.proof.exact, result.proof.relative_to_masked)
    if error and result.proof.exact and max(row["apart on example"], row["apart"] or 0.0) < ROUNDED:
        model, inputs = copy.deepcopy(model).double(), as_double(inputs)
        result = prune(model, inputs, SHARE, include=["*"], exact="exact_asked" in row)
        assert result.proof is not None
        row |= {**held_apart(model, result.model, result.masks, inputs), "pruned in": "float64"}
        error = wrong(row, result.proof.exact, result.proof.relative_to_masked)
    if error:
        row["wrong"] = True
        raise ValueError("WRONG: " + error)


def _trained(full: nn.Module, thinned: nn.Module, inputs: Inputs) -> None:
    """Take a step with both.

    Raises:
        ValueError: a parameter that got a gradient gets none any more.
    """
    try:
        before = train_step(copy.deepcopy(full), inputs)
    except Exception:  # the full model takes no training step on these inputs
        return
    kept = {name for name, _ in thinned.named_parameters()}
    if lost := (before & kept) - train_step(thinned, inputs):
        raise ValueError(f"no gradient any more: {sorted(lost)[:3]}")


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def version() -> dict[str, str]:
    """Return the date and the commit that a row is of."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {"date": datetime.now(UTC).date().isoformat(), "commit": commit.stdout.strip()}
