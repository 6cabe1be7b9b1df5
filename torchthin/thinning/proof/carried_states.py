"""The proof of a next call: masked and thinned model go on from what each of them handed to itself.

States that lost channels have other shapes than the masked model's, so they are not compared themselves, but by what comes of
them. A model that does not take back what it returned is treated as if that were results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from torchthin.errors import one_line
from torchthin.graph.inputs import Inputs
from torchthin.graph.next_call import next_inputs
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.outputs import output_tensors
from torchthin.thinning.proof.comparison import Comparison
from torchthin.thinning.proof.reference import ReferenceMode
from torchthin.thinning.proof.verdict import Proof, compare, not_run
from torchthin.thinning.search.outcome import Failure

NOT_TAKEN = "part of the model's output, since the model does not take it back in its next call"
GOES_ON = "part of what the model hands to its own next call, which with less of it"


def next_call(
    comparison: Comparison, inputs: Inputs, states: Mapping[str, Any], thinned: Mapping[str, Any]
) -> tuple[Proof | None, Failure | None]:
    """Compare the next calls of the masked and of the thinned model.

    Args:
        comparison: the models.
        inputs: of the call before.
        states: what the masked model returned there for its next call.
        thinned: what the thinned model returned.

    Returns:
        The proof, None where there is no next call; and the failure, if there is one.
    """
    for again, whole in next_inputs(inputs):
        expected, known = _wanted(comparison, again, states)
        if expected is None:
            continue
        mode = CountingMode(0, comparison.reference.labels.graph.call_sites[0])
        try:
            actual = comparison.runs(comparison.thinned, again, mode, thinned).results
        except Exception as error:  # whatever the user's code raises
            text = f"{GOES_ON} does not run: {one_line(error)}"
            return not_run(error, comparison.precision), _failure(comparison, text, mode.completed)
        plain = None if comparison.departs else expected
        proof = compare(plain, expected, actual, comparison.precision)
        if not (known or proof.problem):
            proof = _as_one_call(comparison, (inputs, again, whole), actual) or replace(proof, outputs=())
        text = f"{GOES_ON} computes something else"
        return proof, None if proof.holds else _failure(comparison, text, comparison.last)
    return None, _failure(comparison, NOT_TAKEN, comparison.last)


def _wanted(comparison: Comparison, inputs: Inputs, states: Mapping[str, Any]) -> tuple[Any, bool]:
    """Return what the thinned model should compute, and whether its numbers are known.

    None where the masked model does not take its states back in this way, or computes no numbers. A reference that departs
    from the masked model needs the ops of the record, and the next call may have others.
    """
    modes = (ReferenceMode(comparison.reference), CountingMode()) if comparison.departs else (CountingMode(),)
    for mode in modes:
        with contextlib.suppress(Exception):  # whatever the user's code raises
            expected = comparison.runs(comparison.carrier, inputs, mode, states).results
            known = not comparison.departs or (isinstance(mode, ReferenceMode) and mode.repeats)
            numbers = not any(t.numel() and bool(torch.isnan(t).all()) for t in output_tensors(expected))
            if numbers and (known or not isinstance(mode, ReferenceMode)):
                return expected, known
    return None, False


def _as_one_call(comparison: Comparison, calls: tuple[Inputs, Inputs, Inputs], actual: Any) -> Proof | None:
    """Compare the thinned model's next call with its own call on the steps of both calls.

    None where the masked model's two calls do not compute what its one call does, so that nothing follows for the thinned one.
    """
    inputs, again, whole = calls
    with contextlib.suppress(Exception):  # whatever the user's code raises: it may not take so many steps
        states = comparison.runs(
            comparison.carrier, inputs, CountingMode()
        ).states  # not those of the reference
        expected = comparison.runs(comparison.carrier, again, CountingMode(), states).results
        if _once(comparison, comparison.carrier, whole, expected).holds:
            return _once(comparison, comparison.thinned, whole, actual)
    return None


def _once(comparison: Comparison, model: nn.Module, whole: Inputs, found: Any) -> Proof:
    """Compare the last steps of one call with what was found."""
    ends = output_tensors(found)
    made = output_tensors(comparison.runs(model, whole, CountingMode()).results)
    pairs = zip(made, ends, strict=True)
    last = [once[:, -end.shape[1] :] if end.dim() > 1 else once for once, end in pairs]
    return compare(None, last, ends, comparison.precision)


def _failure(comparison: Comparison, text: str, op: int) -> Failure:
    """Return the failure, which freezes what the states lost."""
    return Failure(op, text, axes=comparison.cut_states)
