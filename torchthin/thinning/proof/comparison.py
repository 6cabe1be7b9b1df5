"""The masked model's run that says what the thinned model must compute, and the thinned model that absorbs its constants."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from torchthin.errors import one_line
from torchthin.graph.clone import state_tensors
from torchthin.graph.deferred import Deferred, FilledIn
from torchthin.graph.evaluation_mode import has_own_modes
from torchthin.graph.inputs import Inputs
from torchthin.graph.next_call import Returned, returned, with_states
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.opgraph import BRANCH
from torchthin.graph.precision import Precision
from torchthin.thinning.constants import Absorption, Absorptions, absorbed_tensors, find_absorptions
from torchthin.thinning.derived_weights import preserved_ops, rescaled_tensors
from torchthin.thinning.proof.models import Models
from torchthin.thinning.proof.reference import Departures, Reference, ReferenceMode
from torchthin.thinning.proof.samples import SampledRun, Samples, first_difference
from torchthin.thinning.proof.verdict import Proof, compare, joined, not_run, refuse_nan
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.rms_norms import RmsNorm, scaled_weights
from torchthin.thinning.scale import ScaledTensors, Scaling
from torchthin.thinning.search.constraints import Proposal
from torchthin.thinning.search.outcome import Diverged, Failure
from torchthin.thinning.survivors import Place

DIFFERENT = "the thinned model computes something else"
ALIVE = "what its removed channels hold depends on the input, or on the position"
BORDER = "a constant of its removed channels meets the border, and the result must be exact"
UNABSORBED = "no bias can absorb the constant output of these channels; add_biases=True gives the layer one"
STATISTICS = "its statistics run over all channels, and the result must be exact"


@dataclass(frozen=True)
class Observed:
    """What runs of the masked model showed: the evaluation run and, where that can be compared, the training branch."""

    outputs: tuple[Returned, ...]
    """Of each run."""
    samples: tuple[Samples, ...]
    """Of each run's ops."""
    departures: Departures
    note: str = ""
    repeats: bool = True
    """Whether all ran the ops of the record."""


@dataclass(frozen=True)
class Comparison:
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
    observed: Observed
    """On the example."""
    precision: Precision

    @property
    def starts(self) -> tuple[int, ...]:
        """Where the ops of the runs that are compared begin to count."""
        return (0, BRANCH)[: len(self.observed.outputs)]

    @property
    def cut_states(self) -> tuple[Place, ...]:
        """The axes that lose something of what the model hands to its own next call."""
        return cut_states(self.reference)

    @property
    def last(self) -> int:
        """Index of the last op of the evaluation run."""
        return max(op.index for op in self.reference.labels.graph.ops if op.index < BRANCH)

    @property
    def departs(self) -> bool:
        """Whether the reference is another function than the masked model."""
        return not self.observed.departures.none or self.carrier is not self.masked

    def reference_runs(self, inputs: Inputs) -> Observed:
        """Return what the thinned model should return."""
        modes = [ReferenceMode(self.reference, start) for start in self.starts]
        outputs = tuple(self.runs(self.carrier, inputs, mode) for mode in modes)
        repeats = all(mode.repeats for mode in modes)
        samples = tuple(mode.samples for mode in modes)
        return Observed(outputs, samples, self.observed.departures, repeats=repeats)

    def proof(self, inputs: Inputs, wanted: Observed, *, beside: bool = True) -> tuple[Proof, Failure | None]:
        """Compare the thinned model with what is wanted on some inputs and, if `beside`, with the masked model as it is.

        Returns:
            The proof, and the first op that differs.
        """
        return self.compared(inputs, wanted, beside=beside)[:2]

    def compared(
        self, inputs: Inputs, wanted: Observed, *, beside: bool = True
    ) -> tuple[Proof, Failure | None, Mapping[str, Any]]:
        """Compare as `proof` does; also return what the thinned model hands to its own next call."""
        proofs, found, states = [], list[Samples](), list[Mapping[str, Any]]()
        for start, expected in zip(self.starts, wanted.outputs, strict=False):
            mode = SampledRun(self.reference.survivors, start)
            found.append(mode.samples)
            plain = expected
            if self.departs:
                plain = self.runs(self.masked, inputs, CountingMode(start)) if beside else Returned(None)
            try:
                actual = self.runs(self.thinned, inputs, mode)
            except Exception as error:  # whatever the user's code raises
                return not_run(error, self.precision), Failure(mode.completed, one_line(error)), {}
            proofs.append(compare(plain.results, expected.results, actual.results, self.precision))
            states.append(actual.states)
        return joined(proofs), self._difference(wanted.samples, found), states[0]

    def distance(self, inputs: Inputs) -> Proof:
        """Compare the thinned model with the masked model as it is, on inputs on which the model may run other ops."""
        plain = self.runs(self.masked, inputs, CountingMode()).results
        try:
            actual = self.runs(self.thinned, inputs, CountingMode()).results
            proof = compare(plain, plain, actual, self.precision)
        except Exception as error:  # whatever the user's code raises
            return not_run(error, self.precision)
        return replace(proof, outputs=()) if self.departs else proof

    def runs(
        self, model: nn.Module, inputs: Inputs, mode: CountingMode, states: Mapping[str, Any] | None = None
    ) -> Returned:
        """Run one of the models, with the weights that are made as they are read, from `states` on."""
        mode.deferred, mode.precision = self.reference.deferred, self.precision
        outputs = run(model, with_states(inputs, states or {}), mode)
        return _returned(self.reference, model, inputs, outputs)

    def _difference(self, wanted: Iterable[Samples], found: Iterable[Samples]) -> Failure | None:
        """Look for the first op that differs.

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
        for expected, other in zip(wanted, found, strict=False):
            different = first_difference(expected, other, self.precision, moved, skipped)
            if different is not None:
                return self.failure(different)
        return None

    def failure(self, op: int) -> Failure:
        """Return the failure at an op that differs."""
        unread = tuple(item.constant.place for item in self.absorptions.in_all_runs if _may_be_unread(item))
        return Failure(op, DIFFERENT, scalings=self.scalings, unread=unread)


def set_up(models: Models, precision: Precision) -> Comparison | Failure:
    """Run the reference on the example, and make the thinned model that absorbs its constants.

    The weights of the masked model are made as they are read, where nothing but ops reads them.
    """
    kinds = {type(module) for module in models.traced.model.modules()}
    if not models.traced.derived and not any(map(has_own_modes, kinds)):
        with contextlib.suppress(Diverged):
            return _compared(models, precision, Deferred())
    return _compared(models, precision, None)


def _compared(models: Models, precision: Precision, deferred: Deferred | None) -> Comparison | Failure:
    traced, proposal = models.traced, models.proposal
    masked, recipe, rescaled = models.masked(precision, deferred=deferred), proposal.recipe, {}
    if traced.derived:
        rescaled = rescaled_tensors(
            masked, models.thinned(precision, recipe), recipe, traced.derived.values()
        )
    preserved = preserved_ops(proposal.labels, rescaled)
    made_good = frozenset(norm.op.index for norm in proposal.rms_norms)
    reference = Reference(
        proposal.survivors, preserved=preserved, made_good=made_good, deferred=deferred, precision=precision
    )
    inputs = precision.inputs(traced.inputs)
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
    recipe, thinned = _thinned(models, reference, absorptions, tensors, rescaled.values())
    through = [item for item in absorptions.in_all_runs if item.through_function]
    reference = replace(
        reference,
        departures=observed.departures,
        in_bias=frozenset(item.constant.op.index for item in through),
    )
    comparison = Comparison(
        masked, masked, thinned, recipe, absorptions, models.scalings, proposal.rms_norms, reference, observed, precision
    )  # fmt: skip
    return _rounded(comparison, models, inputs) if through else comparison


def _rounded(comparison: Comparison, models: Models, inputs: Inputs) -> Comparison:
    """Return the comparison for constants that pass through functions.

    Rounding a bias changes the constant in it, so the reference must round the same.
    """
    through = (item for item in comparison.absorptions.tensors if item.through_function)
    carrier = models.masked(comparison.precision, {item.name: item.change for item in through})
    comparison = replace(comparison, carrier=carrier)
    again = comparison.reference_runs(inputs)
    return replace(comparison, observed=replace(again, note=comparison.observed.note))


def _thinned(
    models: Models,
    reference: Reference,
    absorptions: Absorptions,
    tensors: Mapping[str, Tensor],
    rescaled: Iterable[Mapping[str, Tensor]],
) -> tuple[Recipe, nn.Module]:
    """Return the recipe, with the biases that are added, and the thinned model with every tensor that takes another value."""
    proposal, recipe = models.proposal, models.proposal.recipe
    values = absorbed_tensors(absorptions.tensors, recipe, tensors, proposal.survivors)
    recipe = replace(recipe, added={**recipe.added, **_new_biases(absorptions, values)})
    values |= scaled_weights(proposal.rms_norms, recipe, tensors)
    changed: Mapping[str, Tensor] = ScaledTensors(models.scalings, recipe, tensors, values)
    for changes in rescaled:
        changed = {**changed, **changes}
    assert reference.precision is not None
    return recipe, models.thinned(reference.precision, recipe, changed, reference.deferred)


def _observed(models: Models, masked: nn.Module, inputs: Inputs, reference: Reference) -> Observed:
    """Run the masked model and collect what removed channels emit."""
    graph = models.traced.graph
    modes, note = [ReferenceMode(reference)], ""
    outputs = [_recorded(models, masked, inputs, modes[0])]
    refuse_nan(outputs[0].results, "masked")
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
    return Observed(tuple(outputs), tuple(mode.samples for mode in modes), departures, note)


def cut_states(reference: Reference) -> tuple[Place, ...]:
    """Return the axes that lose something of what the model hands to its own next call."""
    graph, survivors = reference.labels.graph, reference.survivors
    return tuple(
        (graph.producer[value].index, value, axis)
        for value in dict.fromkeys(graph.states)
        if value in graph.producer
        for axis in survivors.cut_axes(value)
    )


def _returned(reference: Reference, model: nn.Module, inputs: Inputs, outputs: Any) -> Returned:
    """Tell results from states; a state that loses nothing is a result, to be compared."""
    return returned(model, inputs, outputs) if cut_states(reference) else Returned(outputs)


def _recorded(models: Models, masked: nn.Module, inputs: Inputs, mode: ReferenceMode) -> Returned:
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
    return _returned(mode.reference, masked, inputs, outputs)


def _stuck(proposal: Proposal, departures: Departures) -> Failure | None:
    """Return the failure where removed channels hold what no bias stands for, or where an exact result is asked for."""
    alive = {place: tuple(np.flatnonzero(channels).tolist()) for place, channels in departures.alive.items()}
    if alive:
        silent = ", ".join(sorted(departures.silent))
        more = f"; what {silent} makes of them is not known: register_op(..., dead=...)" if silent else ""
        return Failure(min(alive)[0], ALIVE + more, alive=alive, living=frozenset(() if silent else alive))
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


def _new_biases(absorptions: Absorptions, values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {item.name: tuple(values[item.name].shape) for item in absorptions.tensors if item.new}


def _may_be_unread(item: Absorption) -> bool:
    """Whether a constant went to a new bias of a layer of which the op only takes the weight: code may not read the bias."""
    return item.new and item.name.rpartition(".")[0] != item.constant.op.source.module


def _is_inside(path: str, modules: Container[str]) -> bool:
    """Whether a module is one of these, or part of one."""
    parts = path.split(".")
    return any(".".join(parts[:depth]) in modules for depth in range(len(parts) + 1))
