"""What must hold of every pruned net, checked with its masks alone: the full model under them beside the thinned one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import torchthin
from torchthin.errors import InputError, ProofError, TargetMissedError

TOLERANCE = 1e-6
ROUNDS = 10
"""More attempts than these are too many."""


class Case(Protocol):
    """A net that can be made again and again."""

    def model(self) -> nn.Module:
        """Return the net, in evaluation mode, the same every time."""

    def example(self) -> Any:
        """Return the example that pruning sees."""

    def others(self) -> Iterable[Any]:
        """Yield other inputs: fresh numbers, other batches, other sizes."""


@dataclass(frozen=True)
class Finding:
    """What came of one run."""

    outcome: str
    """``exact``, ``approximate``, ``nothing pruned`` or ``refused``."""
    wrong: str = ""
    """A claim that does not hold, in words."""
    slow: str = ""
    """More rounds than there should be."""


def masked_net(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Lay masks on a net by name, in place, and return it."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, mask in masks.items():
            tensors[name].mul_(mask)
    return model


def run(model: nn.Module, given: Any) -> list[Tensor]:
    """Return the outputs of a net on one input."""
    with torch.no_grad():
        made = model(*([given] if isinstance(given, Tensor) else given))
    return [made] if isinstance(made, Tensor) else list(made)


def distance(masked: nn.Module, thinned: nn.Module, given: Any) -> float | None:
    """Return how far two nets are apart, as a share of the largest output; None where the full one takes no such input."""
    try:
        expected = run(masked, given)
    except (RuntimeError, ValueError, IndexError):
        return None
    found = 0.0
    for a, b in zip(expected, run(thinned, given), strict=True):
        if a.shape != b.shape:
            return float("inf")
        scale = float(a.abs().max()) or 1.0
        error = torch.where(a == b, torch.zeros_like(a), (a - b).abs() / scale)
        found = max(
            found, float(error.nan_to_num(nan=float("inf") if not bool(a.isnan().any()) else 0.0).max())
        )
    return found


def rounding(masked: nn.Module, given: Any) -> float:
    """Return how far apart rounding alone may bring two nets on an input: what a change of the last digits of all weights does.

    Where an output is the small difference of large numbers (``p - p.mean(0)`` of nearly equal rows), that is much.
    """
    other = copy.deepcopy(masked)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(1 + 4 * torch.finfo(torch.float64).eps * noise)
    return distance(masked, other, given) or 0.0


def check_prune(
    case: Case, target: float = 0.5, *, exact: bool = False, seed: int = 0, **options: Any
) -> Finding:
    """Prune a net, and hold the proof against what is measured."""
    model = case.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = torchthin.plan(model, case.example(), target, exact=exact, seed=seed, **options)
            result = plan.apply()
    except (InputError, TargetMissedError, ProofError) as error:
        return Finding("refused", slow=f"{type(error).__name__}: {error}")
    rounds = 0 if plan.thinning is None else plan.thinning.rounds
    slow = f"{rounds} rounds" if rounds > ROUNDS else ""
    if any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()):
        return Finding("refused", "the caller's model was changed", slow)
    if result.proof is None:
        return Finding("nothing pruned", "", slow)
    outcome = "exact" if result.proof.exact else "approximate"
    wrong = wrong_claim(case, result.proof, result.masks, result.model, must_be_exact=exact)
    return Finding(outcome, wrong, slow)


def wrong_claim(
    case: Case, proof: Any, masks: Mapping[str, Tensor], thinned: nn.Module, *, must_be_exact: bool
) -> str:
    """Return what of a proof does not hold, in words; nothing where all of it does."""
    masked = masked_net(case.model(), masks)
    here = distance(masked, thinned, case.example())
    assert here is not None
    if must_be_exact and not proof.exact:
        return f"an exact result was asked for, and {proof}"
    if not proof.exact:
        if not proof.holds or not proof.inexact:
            return f"not exact, and nothing says why: {proof}"
        if here > 1.01 * proof.relative_to_masked + TOLERANCE:
            return f"apart by {here:.2g}, not by {proof.relative_to_masked:.2g}"
        return ""
    for number, given in enumerate([case.example(), *case.others()]):
        apart = distance(masked, thinned, given)
        if apart is not None and apart > max(TOLERANCE, rounding(masked, given)):
            shapes = [tuple(item.shape) for item in ([given] if isinstance(given, Tensor) else given)]
            return f"claimed exact, apart by {apart:.2g} on input {number} of shape {shapes}"
    return ""


def check_thin(case: Case) -> Finding:
    """Thin a net that nobody masked: what is removed changes nothing, or nothing is removed."""
    model, full = case.model(), case.model()
    zeros = any(bool((tensor == 0).any()) for tensor in full.state_dict().values())
    try:
        thinned = torchthin.thin_(model, case.example())
    except TargetMissedError:
        return Finding("nothing pruned")
    except (InputError, ProofError) as error:
        return Finding("refused", slow=f"{type(error).__name__}: {error}")
    outcome = "exact" if thinned.proof.exact else "approximate"
    if not zeros and outcome != "exact":
        return Finding(outcome, "thin_ changed a net without a zero")
    return Finding(outcome, wrong_claim(case, thinned.proof, {}, model, must_be_exact=False))


CHECKS: dict[str, Callable[[Case], Finding]] = {
    "prune": check_prune,
    "exact": lambda case: check_prune(case, exact=True),
    "thin": check_thin,
}


def checked(case: Case, check: str) -> Finding:
    """Return what came of a check; a crash is a wrong claim, too."""
    try:
        return CHECKS[check](case)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return Finding("refused", f"{type(error).__name__}: {lines[0][:160]}")
