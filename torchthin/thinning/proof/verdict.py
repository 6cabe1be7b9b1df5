"""Does the thinned model compute what the masked model computes?"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import InputError, ProofError, one_line
from torchthin.graph.clone import clone, state_tensors
from torchthin.graph.deferred import Deferred
from torchthin.graph.evaluation_mode import has_own_modes
from torchthin.graph.inputs import Inputs, as_inputs, check_model, on_device_of
from torchthin.graph.next_call import returned
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.outputs import output_tensors
from torchthin.graph.precision import DOUBLE, SINGLE, Precision, is_complex
from torchthin.graph.trace import is_large

NOT_PROVED = 'not proved (proof="off")'
"""The verdict on a thinned model that was not compared."""
REMEDY = ". Fine-tune or recover"
"""What the sentence on an approximate result ends with."""
DOUBLE_UP_TO = 64 * 2**20
"""Models of at most this many parameters are compared in float64 by `verify`; larger ones in float32, to spare memory."""


@dataclass(frozen=True)
class Agreement:
    """How far two values of one output are apart."""

    output: int
    shape: tuple[int, ...]
    max_error: float
    """Largest absolute difference; infinite where the other value has another shape."""
    scale: float
    """Largest absolute value of the expected output."""

    @property
    def relative(self) -> float:
        """`max_error` in units of `scale`."""
        return self.max_error / self.scale if self.scale > 0 else self.max_error

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data, with None for an infinite distance."""
        return {**asdict(self), "max_error": _finite(self.max_error)}


@dataclass(frozen=True)
class Proof:
    """The comparison of a thinned model with its masked model; `verdict` says in a word how it ended."""

    outputs: tuple[Agreement, ...]
    """Against what the thinned model should compute: the masked model, but where `inexact` says otherwise."""
    masked: tuple[Agreement, ...]
    """Against the masked model as it is."""
    dtype: str
    tolerance: float
    problem: str | None = None
    inexact: tuple[str, ...] = ()
    """Layers where the thinned model is another function than the masked one, each with the cause."""

    @property
    def relative(self) -> float:
        """Largest relative error over all outputs, against what the thinned model should compute."""
        return max((a.relative for a in self.outputs), default=0.0)

    @property
    def relative_to_masked(self) -> float:
        """Largest relative error over all outputs, against the masked model as it is."""
        return max((a.relative for a in self.masked), default=0.0)

    @property
    def vacuous(self) -> bool:
        """Whether some output says nothing: empty, or all zero (an untrained head that starts at zero)."""
        return any(agreement.scale == 0.0 for agreement in self.outputs) or not self.outputs

    @property
    def holds(self) -> bool:
        """Whether the thinned model computes what it should, exactly or approximately the masked model's function."""
        return self.problem is None and self.relative <= self.tolerance

    @property
    def exact(self) -> bool:
        """Whether the thinned model is the masked model's function, on every input of every size."""
        return self.holds and not self.inexact and self.relative_to_masked <= self.tolerance

    @property
    def verdict(self) -> str:
        """ "exact": what was removed changes nothing. "approximate": the right channels went, but the function of the masked
        model changed, in the layers that `inexact` names. "failed": the thinned model computes something else."""
        return "exact" if self.exact else "approximate" if self.holds else "failed"

    def __str__(self) -> str:
        return verdict_line(self)

    def sentence(self, shown: int = 3) -> str:
        """Return the verdict in words, with its figures and the first `shown` causes."""
        where = f"{self.dtype}, of the output's largest value"
        if not self.holds:
            return self.problem or f"outputs differ by {_share(self.relative)} ({where})"
        if self.exact:
            return f"nothing changes, outputs differ by {self.relative_to_masked:.1e} ({where})"
        return (
            f"the removal is right (to {self.relative:.1e}), but the network's function changed: outputs differ by "
            f"{_share(self.relative_to_masked)} from the masked model ({where}), because of "
            f"{_some(self.inexact, shown)}{REMEDY}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the proof as JSON-able data, with None for an infinite distance."""
        return {
            **asdict(self),
            "outputs": [agreement.to_dict() for agreement in self.outputs],
            "masked": [agreement.to_dict() for agreement in self.masked],
            "relative": _finite(self.relative),
            "relative_to_masked": _finite(self.relative_to_masked),
            "holds": self.holds,
            "exact": self.exact,
            "verdict": self.verdict,
        }


def verdict_line(proof: Proof | None, inexact: Sequence[str] = (), shown: int = 3) -> str:
    """Return in one line how a thinning ended.

    Args:
        proof: None where nothing was compared.
        inexact: layers that are known to depart, which the proof has too where there is one.
        shown: so many of them are named.
    """
    if proof is not None:
        return f"{proof.verdict}: {proof.sentence(shown)}"
    known = f", but it is another function in {_some(inexact, shown)}" if inexact else ""
    return f"{NOT_PROVED}: the thinned model runs, and its outputs were compared with nothing{known}"


def _some(causes: Sequence[str], shown: int) -> str:
    more = f"; and {len(causes) - shown} more" if len(causes) > shown else ""
    return f"{'; '.join(causes[:shown])}{more}"


def verify(reference: nn.Module, candidate: nn.Module, example_inputs: Any) -> Proof:
    """Run two models on the same inputs in evaluation mode and compare every output.

    Left out is what a model hands to its own next call (a cache), where that has other widths in the two.

    Both run on copies in float64 where they have at most `DOUBLE_UP_TO` parameters, else in float32; neither is changed.

    Args:
        reference: the model that says what is right.
        candidate: the model that should compute the same.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.

    Returns:
        `Proof`; ``proof.holds`` says whether they agree, ``str(proof)`` in one line how closely.

    Raises:
        InputError: the reference cannot be used, does not run on the inputs, or returns nothing to compare.
        ProofError: the candidate does not run on inputs on which the reference does.
    """
    models = (reference, candidate)
    for model in models:
        check_model(model, "verify")
        if any(tensor.is_meta for _, tensor in state_tensors(model)):
            raise InputError(
                "The models of verify must have values. Got one on the meta device; load its weights."
            )
    inputs = on_device_of(reference, as_inputs(example_inputs))
    precision = precision_for(models)
    expected, actual = (outputs_of(model, inputs, precision) for model in models)
    if precision is DOUBLE and any(
        isinstance(found, Exception) for found in (expected, actual)
    ):  # code with types of its own
        precision = SINGLE
        expected, actual = (outputs_of(model, inputs, precision) for model in models)
    if isinstance(expected, Exception):
        raise InputError(
            f"The reference model ({type(reference).__name__}) does not run on the example_inputs: {one_line(expected)}. "
            "Give inputs of the shapes and dtypes that its forward takes."
        ) from expected
    if isinstance(actual, Exception):
        raise ProofError(
            f"The candidate model ({type(candidate).__name__}) does not run on the inputs: {one_line(actual)}."
        ) from actual
    _refuse_nothing(expected)
    refuse_nan(expected, "reference")
    parts = [returned(m, inputs, outputs) for m, outputs in zip(models, (expected, actual), strict=True)]
    if _shapes(parts[0].states) != _shapes(parts[1].states):  # caches of other widths, which are no results
        expected, actual = (part.results for part in parts)
    return compare(expected, expected, actual, precision)


def _refuse_nothing(outputs: Any) -> None:
    if not any(tensor.numel() for tensor in output_tensors(outputs)):
        raise InputError(
            "The reference model of verify must return tensors with values, alone or in lists, tuples, dicts and objects. "
            f"Got {type(outputs).__name__}."
        )


def outputs_of(model: nn.Module, inputs: Inputs, precision: Precision) -> Any:
    """Return the outputs of a copy in evaluation mode, or the exception.

    A large model is widened one weight at a time, where nothing but ops reads its weights.
    """
    if is_large(model) and not any(map(has_own_modes, {type(module) for module in model.modules()})):
        with contextlib.suppress(Exception):  # whatever the user's code raises: it may want whole weights
            return _run_copy(model, inputs, precision, Deferred())
    try:
        return _run_copy(model, inputs, precision, None)
    except Exception as error:  # whatever the user's code raises
        return error


def _run_copy(model: nn.Module, inputs: Inputs, precision: Precision, deferred: Deferred | None) -> Any:
    mode = CountingMode()
    mode.precision, mode.deferred = precision, deferred
    copy = clone(model, partial(precision.shared, deferred=deferred))
    return run(copy, precision.inputs(inputs), mode, disposable=True)


def refuse_nan(outputs: Any, kind: str) -> None:
    """Refuse an output that is NaN throughout: a comparison of NaN with NaN would be no proof.

    Args:
        outputs: of a model.
        kind: what the model is called in the error.

    Raises:
        InputError: naming what to do.
    """
    if any(tensor.numel() and bool(torch.isnan(tensor).all()) for tensor in output_tensors(outputs)):
        raise InputError(
            f"An output of the {kind} model is NaN throughout, so nothing can be proved. "
            "Look for NaN or negative variances in the weights, or give other example_inputs."
        )


def precision_for(models: Iterable[nn.Module]) -> Precision:
    """Return what models are compared in."""
    return DOUBLE if all(map(_can_double, models)) else SINGLE


def _can_double(model: nn.Module) -> bool:
    return sum(p.numel() for p in model.parameters()) <= DOUBLE_UP_TO and not is_complex(model)


def compare(masked: Any, expected: Any, actual: Any, precision: Precision) -> Proof:
    """Compare model outputs (any nesting of tensors).

    Args:
        masked: outputs of the masked model as it is; None: not compared with.
        expected: outputs of the reference.
        actual: outputs of the thinned model.
        precision: what the models ran in.
    """
    dtype, tolerance = precision.name, precision.tolerance
    lists = [output_tensors(item) for item in (masked, expected, actual)]
    shapes = [_shapes(tensors) for tensors in lists]
    if shapes[1] != shapes[2]:
        problem = f"output shapes differ: {shapes[1]} masked, {shapes[2]} thinned"
        return Proof((), (), dtype, tolerance, problem)
    beside = _agreements(lists[0], lists[2]) if lists[0] else ()
    return Proof(_agreements(lists[1], lists[2]), beside, dtype, tolerance)


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in output_tensors(outputs)]


def not_run(error: Exception, precision: Precision) -> Proof:
    """Return the proof of a thinned model that raised `error` where the reference ran."""
    problem = f"the thinned model does not run: {one_line(error)}"
    return Proof((), (), precision.name, precision.tolerance, problem)


def joined(proofs: Sequence[Proof]) -> Proof:
    """Return several comparisons of the same models as one."""
    first = proofs[0]
    outputs = tuple(agreement for proof in proofs for agreement in proof.outputs)
    masked = tuple(agreement for proof in proofs for agreement in proof.masked)
    problem = next((proof.problem for proof in proofs if proof.problem), None)
    return Proof(outputs, masked, first.dtype, first.tolerance, problem)


def _share(number: float) -> str:
    """Return a share as text, in percent unless it is tiny."""
    if number >= 0.995:
        return f"{100 * number:,.0f} %"
    return f"{100 * number:.2g} %" if number >= 1e-4 else f"{number:.1e}"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _agreements(expected: list[Tensor], actual: list[Tensor]) -> tuple[Agreement, ...]:
    pairs = zip_longest(expected, actual, fillvalue=torch.zeros(()))
    return tuple(_agreement(i, a, b) for i, (a, b) in enumerate(pairs))


def _agreement(number: int, expected: Tensor, actual: Tensor) -> Agreement:
    a, b = expected.detach().double(), actual.detach().double()
    if a.shape != b.shape:  # as many detections as the data gave
        return Agreement(number, tuple(a.shape), float("inf"), float(a.abs().max()) if a.numel() else 0.0)
    if not a.numel():
        return Agreement(number, tuple(a.shape), 0.0, 0.0)
    same = (a == b) | (torch.isnan(a) & torch.isnan(b))
    error = torch.where(same, torch.zeros_like(a), (a - b).abs()).nan_to_num(nan=float("inf"))
    scale = a.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().max()
    return Agreement(number, tuple(a.shape), float(error.max()), float(scale))
