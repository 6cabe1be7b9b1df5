"""The proof of a proposal: the thinned model is compared with what the masked model must compute."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchthin.errors import one_line
from torchthin.graph.clone import state_tensors
from torchthin.graph.deferred import Deferred, FilledIn
from torchthin.graph.evaluation_mode import has_own_modes
from torchthin.graph.inputs import Inputs, refreshed, resized
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.opgraph import BRANCH
from torchthin.graph.outputs import output_tensors
from torchthin.thinning.constants import Absorption, Absorptions, absorbed_tensors, find_absorptions
from torchthin.thinning.constraints import Proposal
from torchthin.thinning.derived_weights import preserved_ops, rescaled_tensors
from torchthin.thinning.divergence import first_divergence, run
from torchthin.thinning.inexact import inexact_layers
from torchthin.thinning.outcome import Diverged, Failure, Success
from torchthin.thinning.proof import Proof, can_double, compare, in_double, joined, not_run, refuse_nan
from torchthin.thinning.proof_models import Models
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.reference import Departures, Reference, ReferenceMode
from torchthin.thinning.rms_norms import RmsNorm, scaled_weights
from torchthin.thinning.scale import Scaling, scaled_tensors
from torchthin.thinning.unread import cut_beside, not_chosen

DIFFERENT = "the thinned model computes something else"
OTHER_SIZE = "the thinned model computes something else at another size of input"
ALIVE = "what its removed channels hold depends on the input, or on the position"
BORDER = "a constant of its removed channels meets the border, and the result must be exact"
UNABSORBED = "no bias can absorb the constant output of these channels; add_biases=True gives the layer one"
STATISTICS = "its statistics run over all channels, and the result must be exact"


@dataclass(frozen=True)
class _Observed:
    """What the runs of the masked model showed: the evaluation run and, where that can be compared, the training branch."""

    outputs: tuple[Any, ...]
    """Of each run."""
    departures: Departures
    note: str


@dataclass(frozen=True)
class _Comparison:
    """A masked model, the reference that it gives, and the thinned model, which holds the constants."""

    masked: nn.Module
    carrier: nn.Module
    """The masked model, with those constants in its biases that the thinned model's biases pass through functions."""
    thinned: nn.Module
    recipe: Recipe
    """With the biases that are added."""
    absorptions: Absorptions
    scalings: tuple[Scaling, ...]
    rms_norms: tuple[RmsNorm, ...]
    reference: Reference
    observed: _Observed
    double: bool

    @property
    def starts(self) -> tuple[int, ...]:
        """Where the ops of the runs that are compared begin to count."""
        return (0, BRANCH)[: len(self.observed.outputs)]

    def reference_outputs(self, inputs: Inputs) -> tuple[Any, ...]:
        """Return what the thinned model should return, in every run."""
        return tuple(run(self.carrier, inputs, ReferenceMode(self.reference, start)) for start in self.starts)

    @property
    def last(self) -> int:
        """Index of the last op of the evaluation run."""
        return max(op.index for op in self.reference.labels.graph.ops if op.index < BRANCH)

    @property
    def departs(self) -> bool:
        """Whether the reference is another function than the masked model."""
        return not self.observed.departures.none or self.carrier is not self.masked

    def proof(self, inputs: Inputs, expected: tuple[Any, ...]) -> Proof:
        """Compare the thinned model with `expected`, and with the masked model as it is."""
        proofs = []
        for start, wanted in zip(self.starts, expected, strict=True):
            mode = CountingMode(start)
            mode.deferred = self.reference.deferred
            plain = run(self.masked, inputs, mode) if self.departs else wanted
            try:
                actual = run(self.thinned, inputs, CountingMode(start))
            except Exception as error:  # whatever the user's code raises
                return not_run(error, self.double)
            proofs.append(compare(plain, wanted, actual, self.double))
        return joined(proofs)

    def difference(self, inputs: Inputs, starts: Sequence[int] | None = None) -> Failure | None:
        """Look for the first op that differs, in the runs of the given starts (None: in all).

        An op whose constant the BatchNorm after it absorbed differs rightly, and so does one that sees a factor before the
        number which cancels it; a module with a new bias runs other ops.
        """
        absorptions = self.absorptions.in_all_runs
        moved = {index for item in absorptions for index in item.between}
        moved |= {index for item in self.scalings for index in item.between}
        moved |= {index for item in self.rms_norms for index in item.between}
        grown = {item.constant.op.source.module for item in absorptions if item.new}
        ops = self.reference.labels.graph.ops
        skipped = {op.index for op in ops if _is_inside(op.source.module, grown)} | self.reference.preserved
        tolerance = 1e-7 if self.double else 1e-3
        for start in self.starts if starts is None else starts:
            different = first_divergence(
                self.carrier, self.thinned, inputs, self.reference, start, tolerance, moved, skipped
            )
            if different is not None:
                return self.failure(different)
        return None

    def failure(self, op: int) -> Failure:
        """Return the failure at an op that differs."""
        unread = tuple(item.constant.place for item in self.absorptions.in_all_runs if _may_be_unread(item))
        return Failure(op, DIFFERENT, scalings=self.scalings, unread=unread)


def find_difference(models: Models) -> Failure | None:
    """Look for differences op by op, in the model's own precision."""
    comparison = _comparison(models, False)
    if isinstance(comparison, Failure):
        return comparison
    different = comparison.difference(models.traced.inputs)
    if different is not None and _may_be_rounding(models, different.op):
        return None
    return different


def proved(models: Models) -> Failure | Success:
    """Compare the outputs of the thinned model with the reference, in float64 where the model allows.

    Raises:
        Diverged: the masked model does not run as it was recorded.
    """
    double = can_double(models.traced.model)
    try:
        comparison = _comparison(models, double)
    except Diverged:
        if not double:
            raise
        double = False  # code with float32 written into it
        comparison = _comparison(models, double)
    if isinstance(comparison, Failure):
        return comparison
    inputs, observed = in_double(models.traced.inputs, double), comparison.observed
    proof = comparison.proof(inputs, observed.outputs)
    if double and proof.holds:
        proof = joined([proof, _on_fresh_inputs(comparison, inputs)])
    if not proof.holds or proof.vacuous:
        different = comparison.difference(inputs)
        if different is not None:
            return different
    if not proof.holds:
        return comparison.failure(comparison.last)
    inexact = inexact_layers(observed.departures, comparison.absorptions, models.proposal.survivors)
    unrun = not_chosen(models.traced, models.proposal.recipe)
    if unrun and models.proposal.constraints.exact:
        axes = cut_beside(models.traced, models.proposal.recipe, unrun)
        return Failure(axes[0][0], _not_run(unrun), axes=axes)
    proof = replace(proof, inexact=(*inexact, _not_run(unrun)) if unrun else inexact)
    if double and proof.exact and not models.varying:
        different = _at_another_size(comparison, inputs)
        if different is not None:
            return different
    return Success(
        comparison.recipe,
        comparison.absorptions.tensors,
        proof,
        observed.departures,
        models.scalings,
        observed.note,
    )


def _not_run(names: tuple[str, ...]) -> str:
    """Say that layers of a choice did not run."""
    listed = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
    return (
        f"{listed}: the code chooses by numbers of the input what runs, and this did not run on the example"
    )


def _at_another_size(comparison: _Comparison, inputs: Inputs) -> Failure | None:
    """Compare on longer or shorter inputs, where the masked model takes some: code may compute numbers from a size."""
    for other in resized(inputs):
        recorded = CountingMode(0, comparison.reference.labels.graph.call_sites[0])
        recorded.deferred = comparison.reference.deferred
        try:
            expected = run(comparison.masked, other, recorded)
        except Exception:  # it takes no other size along this axis
            continue
        if _rows(expected) != _rows(comparison.observed.outputs[0]):
            continue  # a view with a number in it made more rows of what is longer
        mode = CountingMode()
        try:
            actual = run(comparison.thinned, other, mode)
        except Exception as error:  # whatever the user's code raises
            return Failure(mode.completed, f"{OTHER_SIZE}: {one_line(error)}")
        if compare(None, expected, actual, comparison.double).holds:
            return None
        different = comparison.difference(other, (0,)) if recorded.repeats else None  # a loop has more ops
        different = different or comparison.failure(comparison.last)
        constants = comparison.observed.departures.constants.values()
        return replace(different, text=OTHER_SIZE, alive={item.place: item.channels for item in constants})
    return None


def _rows(outputs: Any) -> list[int]:
    """Return the size of the first axis of every output."""
    return [tensor.shape[0] for tensor in output_tensors(outputs) if tensor.dim()]


def _comparison(models: Models, double: bool) -> _Comparison | Failure:
    """Run the reference, and make the thinned model that absorbs its constants.

    The weights of the masked model are made as they are read, where nothing but ops reads them.
    """
    kinds = {type(module) for module in models.traced.model.modules()}
    if not models.traced.derived and not any(map(has_own_modes, kinds)):
        with contextlib.suppress(Diverged):
            return _compared(models, double, Deferred())
    return _compared(models, double, None)


def _compared(models: Models, double: bool, deferred: Deferred | None) -> _Comparison | Failure:
    traced, proposal = models.traced, models.proposal
    masked, recipe, rescaled = models.masked(double, deferred=deferred), proposal.recipe, {}
    if traced.derived:
        rescaled = rescaled_tensors(masked, models.thinned(double, recipe), recipe, traced.derived.values())
    preserved = preserved_ops(proposal.labels, rescaled)
    made_good = frozenset(norm.op.index for norm in proposal.rms_norms)
    reference = Reference(proposal.survivors, preserved=preserved, made_good=made_good, deferred=deferred)
    inputs = in_double(traced.inputs, double)
    observed = _observed(models, masked, inputs, reference)
    failure = _stuck(proposal, observed.departures)
    if failure is not None:
        return failure
    tensors: Mapping[str, Tensor] = {name: tensor.detach() for name, tensor in state_tensors(masked)}
    if deferred:
        tensors = FilledIn(tensors, deferred)
    constants = tuple(observed.departures.constants.values())
    absorptions = find_absorptions(
        traced.model, proposal.labels, constants, tensors, add_biases=proposal.constraints.add_biases
    )
    refused = absorptions.refused(exact=proposal.constraints.exact)
    if refused:
        return Failure(refused[0].op.index, UNABSORBED, alive={item.place: item.channels for item in refused})
    recipe, thinned = _thinned(models, double, absorptions, tensors, rescaled.values())
    through = [item for item in absorptions.in_all_runs if item.through_function]
    reference = replace(
        reference,
        departures=observed.departures,
        in_bias=frozenset(item.constant.op.index for item in through),
    )
    comparison = _Comparison(
        masked, masked, thinned, recipe, absorptions, models.scalings, proposal.rms_norms, reference, observed, double
    )  # fmt: skip
    return _rounded(comparison, models, inputs) if through else comparison


def _rounded(comparison: _Comparison, models: Models, inputs: Inputs) -> _Comparison:
    """Return the comparison for constants that pass through functions.

    Rounding a bias changes the constant in it, so the reference must round the same.
    """
    through = (item for item in comparison.absorptions.tensors if item.through_function)
    carrier = models.masked(comparison.double, {item.name: item.change for item in through})
    comparison = replace(comparison, carrier=carrier)
    outputs = comparison.reference_outputs(inputs)
    return replace(comparison, observed=replace(comparison.observed, outputs=outputs))


def _thinned(
    models: Models,
    double: bool,
    absorptions: Absorptions,
    tensors: Mapping[str, Tensor],
    rescaled: Iterable[Mapping[str, Tensor]],
) -> tuple[Recipe, nn.Module]:
    """Return the recipe, with the biases that are added, and the thinned model with every tensor that takes another value."""
    proposal, recipe = models.proposal, models.proposal.recipe
    values = absorbed_tensors(absorptions.tensors, recipe, tensors, proposal.survivors)
    recipe = replace(recipe, added={**recipe.added, **_new_biases(absorptions, values)})
    values |= scaled_weights(proposal.rms_norms, recipe, tensors)
    values = scaled_tensors(models.scalings, recipe, tensors, values)
    for changes in rescaled:
        values.update(changes)
    thinned = models.thinned(double, recipe)
    with torch.no_grad():
        for name, tensor in state_tensors(thinned):
            if name in values:
                tensor.copy_(values[name])
    return recipe, thinned


def _observed(models: Models, masked: nn.Module, inputs: Inputs, reference: Reference) -> _Observed:
    """Run the masked model and collect what removed channels emit."""
    graph = models.traced.graph
    modes, note = [ReferenceMode(reference)], ""
    outputs = [_recorded(models, masked, inputs, modes[0])]
    refuse_nan(outputs[0], "masked")
    if graph.branched and graph.random_op is None:
        mode = ReferenceMode(reference, BRANCH)
        try:
            outputs.append(_recorded(models, masked, inputs, mode))
            modes.append(mode)
        except Diverged as error:
            note = f"What only the training branch computes was not compared. {error}"
    departures = Departures()
    for mode in modes:
        departures.join(mode.departures)
    return _Observed(tuple(outputs), departures, note)


def _recorded(models: Models, masked: nn.Module, inputs: Inputs, mode: ReferenceMode) -> Any:
    """Run the masked model and see that it does what was recorded."""
    try:
        outputs = run(masked, inputs, mode)
    except Exception as error:  # whatever the user's code raises
        cause = " ".join(str(error).split())
        raise Diverged(f"The masked model does not run as it was recorded: {cause}") from error
    if not (mode.repeats or (models.varying and mode.complete)):
        raise Diverged(
            "The masked model runs other operations than the model did when it was recorded; "
            "what changes from run to run cannot be proved."
        )
    return outputs


def _stuck(proposal: Proposal, departures: Departures) -> Failure | None:
    """Return the failure where removed channels hold what no bias stands for, or where an exact result is asked for."""
    alive = {place: tuple(np.flatnonzero(channels).tolist()) for place, channels in departures.alive.items()}
    if alive:
        silent = ", ".join(sorted(departures.silent))
        more = f"; what {silent} makes of them is not known: register_op(..., dead=...)" if silent else ""
        return Failure(min(alive)[0], ALIVE + more, alive=alive)
    if not proposal.constraints.exact:
        return None
    alive = {item.place: item.channels for item in departures.constants.values() if item.bordered}
    if alive:
        return Failure(min(alive)[0], BORDER, alive=alive)
    survivors = proposal.survivors
    axes = tuple(
        (op.index, value, axis)
        for op in departures.left_out.values()
        for value in dict.fromkeys(op.reads)
        for axis in survivors.cut_axes(value)
    )
    return Failure(axes[0][0], STATISTICS, axes=axes) if axes else None


def _on_fresh_inputs(comparison: _Comparison, inputs: Inputs) -> Proof:
    """Compare on other numbers, and on other tokens where the model takes them in another order."""
    fresh, expected = refreshed(inputs, seed=1), None
    if any(not tensor.is_floating_point() for tensor in inputs.tensors()):
        tokens = refreshed(inputs, seed=1, integers=True)
        with contextlib.suppress(Exception):  # numbers that mean something else than tokens
            fresh, expected = tokens, comparison.reference_outputs(tokens)
    return comparison.proof(fresh, comparison.reference_outputs(fresh) if expected is None else expected)


def _new_biases(absorptions: Absorptions, values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {item.name: tuple(values[item.name].shape) for item in absorptions.tensors if item.new}


def _may_be_unread(item: Absorption) -> bool:
    """Whether a constant went to a new bias of a layer of which the op only takes the weight: code may not read the bias."""
    return item.new and item.name.rpartition(".")[0] != item.constant.op.source.module


def _may_be_rounding(models: Models, index: int) -> bool:
    """Whether rounding may have made a difference: a rank or a threshold comes before it, and float64 can tell."""
    graph, from_input = models.traced.graph, models.proposal.labels.from_input
    values = graph.values
    return can_double(models.traced.model) and any(
        op.index <= index and not values[made].dtype.is_floating_point
        for op in graph.ops
        if any(number in from_input and values[number].dtype.is_floating_point for number in op.reads)
        for made in op.results
    )


def _is_inside(path: str, modules: Container[str]) -> bool:
    """Whether a module is one of these, or part of one."""
    parts = path.split(".")
    return any(".".join(parts[:depth]) in modules for depth in range(len(parts) + 1))
