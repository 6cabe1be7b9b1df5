"""The proof of a proposal: the thinned model is compared with what the masked model must compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torchthin.graph.inputs import Inputs, refreshed, resized
from torchthin.graph.outputs import output_tensors
from torchthin.graph.precision import AS_GIVEN, DOUBLE, SINGLE, Precision, is_complex, is_narrow
from torchthin.thinning.proof.carried_states import next_call
from torchthin.thinning.proof.comparison import Comparison, Observed, set_up
from torchthin.thinning.proof.inexact import inexact_layers
from torchthin.thinning.proof.models import Models
from torchthin.thinning.proof.verdict import Proof, joined
from torchthin.thinning.search.outcome import Diverged, Failure, Success
from torchthin.thinning.unread import cut_beside, not_chosen

OTHER_SIZE = "the thinned model computes something else at another size of input"
ROUNDING = 1e-5
"""Largest difference in float32 that is taken for rounding; a larger one is looked at in float64."""


def proved(models: Models) -> Failure | Success:
    """Compare the outputs of the thinned model with the reference, in the first precision that can decide.

    Where nothing is to be compared, the reference runs all the same: it says which constants the biases take over.

    Raises:
        Diverged: the masked model does not run as it was recorded.
    """
    undecided: Failure | Success | None = None
    for precision in _precisions(models):
        try:
            outcome, certain = _outcome(models, precision)
        except Diverged as error:  # code with types of its own
            diverged = error
            continue
        if certain:
            return outcome
        undecided = undecided or outcome
    if undecided is None:
        raise diverged
    return undecided


def _precisions(models: Models) -> tuple[Precision, ...]:
    """Return the precisions in which models are compared, in this order: float64 comes first where it is cheap."""
    model = models.traced.model
    if is_complex(model):
        return (AS_GIVEN,)
    wide = (SINGLE, DOUBLE) if models.traced.is_large and models.level != "full" else (DOUBLE, SINGLE)
    return (*wide, AS_GIVEN) if is_narrow(model) else wide


def _outcome(models: Models, precision: Precision) -> tuple[Failure | Success, bool]:
    """Return what comes of a comparison, and whether its precision is enough to tell."""
    comparison = set_up(models, precision)
    if isinstance(comparison, Failure):
        return comparison, True
    if models.level == "off":
        return _success(models, comparison, None), True
    inputs = precision.inputs(models.traced.inputs)
    proof, different, states = comparison.compared(inputs, comparison.observed)
    if _agrees(models, proof, different) and states:
        again, failed = next_call(comparison, inputs, comparison.observed.outputs[0].states, states)
        if again is None and failed is not None:
            return failed, True
        proof, different = joined([proof, *([] if again is None else [again])]), failed or different
    if _agrees(models, proof, different):
        fresh, elsewhere = _on_other_inputs(models, comparison, inputs)
        proof, different = (
            joined([proof, fresh, *_on_what_was_given(models, comparison)]),
            different or elsewhere,
        )
    certain = precision is not SINGLE or _decides(models, proof, different)
    if _agrees(models, proof, different):
        return _success(models, comparison, proof), certain
    return different or comparison.failure(comparison.last), certain


def _agrees(models: Models, proof: Proof, different: Failure | None) -> bool:
    """Whether outputs agree and, where they say nothing or the proposal rests on choices, the results of all ops."""
    return proof.holds and (different is None or not (proof.vacuous or models.proposal.is_doubtful))


def _decides(models: Models, proof: Proof, different: Failure | None) -> bool:
    """Whether float32 is enough to tell: what differs, if anything does, is neither rounding nor near it."""
    if proof.problem is not None or (different is None and proof.relative <= ROUNDING):
        return True
    wrong = not proof.holds or models.proposal.is_doubtful
    return wrong and different is not None and not _may_be_rounding(models, different.op)


def _success(models: Models, comparison: Comparison, proof: Proof | None) -> Failure | Success:
    """Return what holds, with the layers where it is another function than the masked model."""
    proposal, departures = models.proposal, comparison.observed.departures
    inexact: tuple[str, ...] = inexact_layers(departures, comparison.absorptions, proposal.survivors)
    unrun = not_chosen(models.traced, proposal.recipe)
    if unrun and proposal.constraints.exact:
        axes = cut_beside(models.traced, proposal.recipe, unrun)
        return Failure(axes[0][0], _not_run(unrun), axes=axes)
    inexact = (*inexact, _not_run(unrun)) if unrun else inexact
    return Success(
        comparison.recipe,
        comparison.absorptions.tensors,
        None if proof is None else replace(proof, inexact=inexact),
        inexact,
        departures,
        models.scalings,
        comparison.observed.note,
    )


def _not_run(names: tuple[str, ...]) -> str:
    """Say that layers of a choice did not run."""
    listed = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
    return (
        f"{listed}: the code chooses by numbers of the input what runs, and this did not run on the example"
    )


def _on_other_inputs(models: Models, comparison: Comparison, inputs: Inputs) -> tuple[Proof, Failure | None]:
    """Compare on fresh numbers: once, or on everything that the masked model takes where the proof is to be full."""
    proofs, first = list[Proof](), None
    for proof, different in _elsewhere(models, comparison, inputs):
        proofs.append(proof)
        first = first or different
        if models.level != "full" or not proof.holds:
            break
    return joined(proofs), first


def _elsewhere(
    models: Models, comparison: Comparison, inputs: Inputs
) -> Iterator[tuple[Proof, Failure | None]]:
    """Yield comparisons at other sizes, where the masked model takes them, then one at the example's.

    Code may compute numbers from a size. A function that departs from the masked model's is compared at the example's alone; how
    far it departs is measured on fresh numbers only where the proof is to be full.
    """
    beside = models.level == "full" or comparison.observed.departures.none
    if not (comparison.departs or models.varying):
        seen = set()
        for other in _resized(models, inputs):
            shapes = tuple(tensor.shape for tensor in other.tensors())
            wanted = None if shapes in seen else _wanted(comparison, other)
            if wanted is not None and _has_rows_of(wanted, comparison.observed, _rows(inputs, other)):
                seen.add(shapes)
                yield _at_other_size(comparison, other, wanted)
    for fresh in _fresh(inputs):
        wanted = _wanted(comparison, fresh)
        if wanted is not None:
            yield comparison.proof(fresh, wanted, beside=beside)
            return
    yield comparison.proof(inputs, comparison.observed, beside=beside)


def _resized(models: Models, inputs: Inputs) -> Iterator[Inputs]:
    return (other for fresh in _fresh(inputs) for other in resized(fresh, batch=models.level == "full"))


def _on_what_was_given(models: Models, comparison: Comparison) -> list[Proof]:
    """Compare with the masked model on the caller's own example, too, where a better one was made of it."""
    given = models.traced.given
    return [] if given is None else [comparison.distance(comparison.precision.inputs(given))]


def _fresh(inputs: Inputs) -> Iterator[Inputs]:
    """Yield other numbers: first with other tokens, then with the integers as they are, which may be no tokens."""
    if any(not tensor.is_floating_point() for tensor in inputs.tensors()):
        yield refreshed(inputs, seed=1, integers=True)
    yield refreshed(inputs, seed=1)


def _wanted(comparison: Comparison, inputs: Inputs) -> Observed | None:
    """Return what the thinned model should return; None where the model does not take these inputs."""
    try:
        return comparison.reference_runs(inputs)
    except Exception:  # whatever the user's code raises
        return None


def _has_rows_of(wanted: Observed, seen: Observed, rows: tuple[int, int]) -> bool:
    """Whether every output has as many rows as on the example, or as many more as `rows` says that the input has.

    A view with a number in it makes more rows of what is longer.
    """
    new, old = (
        [t.shape[0] for t in output_tensors([run.results for run in each.outputs]) if t.dim()]
        for each in (wanted, seen)
    )
    pairs = zip(new, old, strict=False)
    return len(new) == len(old) and all(a == b or a * rows[0] == b * rows[1] for a, b in pairs)


def _rows(inputs: Inputs, other: Inputs) -> tuple[int, int]:
    """Return the size of the first axis of the example and of other inputs."""
    pairs = zip(inputs.tensors(), other.tensors(), strict=True)
    return next(((a.shape[0], b.shape[0]) for a, b in pairs if a.dim()), (1, 1))


def _at_other_size(comparison: Comparison, inputs: Inputs, wanted: Observed) -> tuple[Proof, Failure | None]:
    proof, different = comparison.proof(inputs, wanted)
    if proof.holds:
        return proof, None  # outputs that say nothing here said something at the example's size
    if proof.problem is not None and different is not None:
        return proof, replace(different, text=f"{OTHER_SIZE}: {different.text}")
    if different is None or not wanted.repeats:  # a loop has more ops
        different = comparison.failure(comparison.last)
    constants = comparison.observed.departures.constants.values()
    alive = {item.place: item.channels for item in constants}
    return proof, replace(different, text=OTHER_SIZE, alive=alive)


def _may_be_rounding(models: Models, index: int) -> bool:
    """Whether rounding may have made a difference: a rank or a threshold comes before it."""
    graph, from_input = models.traced.graph, models.proposal.labels.from_input
    values = graph.values
    return any(
        op.index <= index and not values[made].dtype.is_floating_point
        for op in graph.ops
        if any(number in from_input and values[number].dtype.is_floating_point for number in op.reads)
        for made in op.results
    )
