"""The proof that layers are out: the shortened model against the dense one whose layers hand on what they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from torchthin.errors import InputError, ProofError, one_line
from torchthin.graph.clone import clone
from torchthin.graph.inputs import Inputs, refreshed, resized
from torchthin.graph.layers import Layer, leave_out_
from torchthin.graph.next_call import next_inputs, returned, with_states
from torchthin.thinning.proof.verdict import (
    Proof,
    compare,
    joined,
    not_run,
    outputs_of,
    precision_for,
    refuse_nan,
    verify,
)


def without_layers(dense: nn.Module, layers: Sequence[Layer]) -> nn.Module:
    """Return a copy of the dense model that shares its tensors, in which these layers hand on what they are given."""
    made = clone(dense, lambda name, tensor: tensor)
    leave_out_(made, layers)
    return made


def proved_left_out(
    dense: nn.Module, small: nn.Module, layers: Sequence[Layer], inputs: Inputs, level: str
) -> Proof | None:
    """Compare on the example, on fresh inputs and at other sizes, and the next call with what each model handed to itself.

    level: "full" compares other batch sizes too; "off" runs the shortened model and compares nothing.

    Raises:
        ProofError: with "off", the shortened model does not run.
    """
    if level == "off":
        outputs = outputs_of(small, inputs, precision_for((small,)))
        if isinstance(outputs, Exception):
            raise ProofError(
                f"The model without these layers does not run: {one_line(outputs)}."
            ) from outputs
        return None
    reference = without_layers(dense, layers)
    proofs = list[Proof]()
    for number, each in enumerate(_inputs(inputs, level)):
        try:
            proofs.append(verify(reference, small, each))
        except InputError:  # the model does not take these
            if number == 0:
                raise
        except ProofError as error:
            precision = precision_for((dense, small))
            proofs.append(Proof((), (), precision.name, precision.tolerance, str(error).rstrip(".")))
        if proofs and not proofs[-1].holds:
            break
    else:
        proofs += _next_call(reference, small, _with_cache(inputs))
    return joined(proofs)


def _inputs(inputs: Inputs, level: str) -> Iterator[Inputs]:
    yield inputs
    fresh = refreshed(inputs, seed=1, integers=any(not t.is_floating_point() for t in inputs.tensors()))
    yield fresh
    yield from resized(fresh, batch=level == "full")


def _with_cache(inputs: Inputs) -> Inputs:
    """Return the same inputs with the model's states asked for, where they say that none are wanted."""
    kwargs = dict(inputs.kwargs or {})
    return Inputs(inputs.args, kwargs | {"use_cache": True}) if kwargs.get("use_cache") is False else inputs


def _next_call(reference: nn.Module, small: nn.Module, inputs: Inputs) -> list[Proof]:
    """Compare the next calls; nothing where the dense model has no states, or does not take them back in this way."""
    models, precision = (reference, small), precision_for((reference, small))
    first = [outputs_of(model, inputs, precision) for model in models]
    if isinstance(first[0], Exception):
        return []
    if isinstance(first[1], Exception):
        return [not_run(first[1], precision)]
    states = [returned(model, inputs, out).states for model, out in zip(models, first, strict=True)]
    if not states[0]:
        return []
    for again, _ in next_inputs(inputs):
        expected, actual = (
            outputs_of(model, with_states(again, own), precision)
            for model, own in zip(models, states, strict=True)
        )
        if isinstance(expected, Exception):
            continue
        if isinstance(actual, Exception):
            return [not_run(actual, precision)]
        results = [
            returned(model, inputs, out).results
            for model, out in zip(models, (expected, actual), strict=True)
        ]
        refuse_nan(results[0], "reference")
        return [compare(results[0], results[0], results[1], precision)]
    return []
