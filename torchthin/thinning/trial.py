"""One trial of a recipe: does the thinned copy run, and does it compute what the reference computes?"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.dependency.propagate import Labels
from torchthin.errors import InputError
from torchthin.graph.clone import clone, held, saved_names
from torchthin.graph.deferred import SMALLEST, Deferred, FilledIn
from torchthin.graph.evaluation_mode import evaluation_mode, has_own_modes
from torchthin.graph.inputs import Inputs, call, refreshed
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.opgraph import BRANCH, Op
from torchthin.graph.outputs import output_tensors
from torchthin.graph.parametrized import DerivedWeight
from torchthin.graph.size_uses import FactorMode
from torchthin.thinning.build import tensors_of, thin_copy
from torchthin.thinning.constants import Fold, Folds, folded_tensors, plan_folds
from torchthin.thinning.derived_weights import rescaled_tensors, settled_ops
from torchthin.thinning.divergence import ReferenceDigests, first_difference, run
from torchthin.thinning.proof import Proof, can_double, compare, in_double, joined
from torchthin.thinning.recipe import Recipe, cut
from torchthin.thinning.reference import Constant, Kept, ReferenceMode
from torchthin.thinning.scale import Rescale, plan_rescales, tempered_tensors

DIFFERENT = "the thinned model computes something else"


class Diverged(Exception):
    """The model does not run again as it was recorded."""


@dataclass(frozen=True)
class Failure:
    """Where and how a trial failed."""

    op: int
    """Index of the first op that failed or differed."""
    text: str
    raised: bool = False
    """The model's code raised an exception; else it ran and computed something else."""
    axes: tuple[tuple[int, int, int], ...] = ()
    """(op, value, axis) of each axis that must stay, where the cause is known; else the search looks for it."""
    rescales: tuple[Rescale, ...] = ()
    """The numbers that layers had taken over."""
    homeless: tuple[int, ...] = ()
    """Indices of ops into which dead channels emit a constant that no bias can take."""
    unread: tuple[int, ...] = ()
    """Indices of ops whose constant went to a bias that the code may not look at."""


@dataclass(frozen=True)
class Success:
    """A recipe that holds."""

    recipe: Recipe
    """With the biases that constants asked for."""
    folds: tuple[Fold, ...]
    proof: Proof | None
    constants: tuple[Constant, ...]
    left_out: tuple[Op, ...]
    """Ops whose statistics lost channels."""
    rescales: tuple[Rescale, ...] = ()
    note: str = ""
    """What could not be compared, in words."""


@dataclass(frozen=True)
class _Pair:
    """A masked model and its thinned one, which holds the constants."""

    masked: nn.Module
    carrier: nn.Module
    """The masked model, with those constants in its biases that the thinned model's biases pass through functions."""
    small: nn.Module
    recipe: Recipe
    folds: Folds
    rescales: tuple[Rescale, ...]
    constants: tuple[Constant, ...]
    left_out: tuple[Op, ...]
    settled: frozenset[int]
    """Ops of weights that a rescaled tensor keeps as they were."""
    expected: tuple[Any, ...]
    """Outputs of the reference, in evaluation mode and, where that can be compared, in the training branch."""
    note: str = ""
    deferred: Deferred | None = None
    """Weights of the masked model that are made as they are read."""

    @property
    def starts(self) -> tuple[int, ...]:
        """Where the ops of the runs that are compared begin to count."""
        return (0, BRANCH)[: len(self.expected)]

    @property
    def placed(self) -> frozenset[int]:
        """Indices of ops whose constant the carrier's bias holds."""
        return frozenset(fold.constant.op.index for fold in self.all_folds if fold.carried)

    @property
    def all_folds(self) -> tuple[Fold, ...]:
        """All folds as each run meets them."""
        return (*self.folds.folds, *self.folds.twins)


@dataclass(frozen=True)
class Trial:
    """Everything that a trial needs to know."""

    model: nn.Module
    """Full size, left as it is."""
    inputs: Inputs
    labels: Labels
    kept: Kept
    masks: Mapping[str, Tensor]
    recipe: Recipe
    factors: Mapping[int, float] = field(default_factory=dict)
    """Op index -> what the full-size model multiplies with; where the thinned one differs, a layer takes it over."""
    derived: tuple[DerivedWeight, ...] = ()
    """Weights that layers compute from other parameters."""
    varying: bool = False
    """How many ops the model runs depends on the data (boxes found), and is no reason to give up."""
    fake: bool = False
    """See without arithmetic whether the thinned model runs; of no use where outputs are compared."""

    def run(self, *, prove: bool, doubtful: bool) -> Failure | Success:
        """Run the trial.

        Args:
            prove: compare outputs with the reference; False: check that the thinned model runs.
            doubtful: choices were made, so look for differences op by op first, which is cheaper than a failed proof.
        """
        if not prove and (self._runs_fake() if self.fake else self._runs()):
            return Success(self.recipe, (), None, (), ())
        small = thin_copy(self.model, self.recipe)  # unmasked: of what a mask zeroes nothing stays
        mode = FactorMode(self.labels.graph.call_sites)
        failure = _attempt(small, self.inputs, mode)
        if failure is None and self.labels.graph.branched:
            failure = _attempt(small, self.inputs, CountingMode(BRANCH, self.labels.graph.branch_call_sites))
        if failure is not None:
            return failure
        if not prove:
            return Success(self.recipe, (), None, (), ())
        rescales = plan_rescales(self.labels, self.factors, mode.factors, saved_names(self.model))
        del small
        different = self._doubted(rescales) if doubtful else None
        return self._proved(rescales) if different is None else different

    def _doubted(self, rescales: tuple[Rescale, ...]) -> Failure | None:
        """Look for differences op by op."""
        pair = self._pair(False, rescales)
        different = pair if isinstance(pair, Failure) else self._difference(pair, self.inputs, False)
        if different is not None and not different.axes and self._rounded(different.op):
            return None
        return different

    def _runs(self) -> bool:
        """Whether the thinned model runs; if not, a run that counts its ops tells where."""
        small = thin_copy(self.model, self.recipe)
        with contextlib.suppress(Exception), held(small):
            for training in (False, True) if self.labels.graph.branched else (False,):
                with evaluation_mode(
                    small, training_branch=training, disposable=not self.labels.graph.branched
                ):
                    call(small, self.inputs)
            return True
        return False

    def _runs_fake(self) -> bool:
        """Whether the thinned model runs without arithmetic; if not, a run with numbers tells why, if there is a reason."""
        graph = self.labels.graph
        modes = [CountingMode(0, graph.call_sites, fake=True)]
        if graph.branched:
            modes.append(CountingMode(BRANCH, graph.branch_call_sites, fake=True))
        return all(
            _attempt(thin_copy(self.model, self.recipe, values=False), self.inputs, mode, disposable=True)
            is None
            for mode in modes
        )

    def _rounded(self, index: int) -> bool:
        """Whether rounding may have made the difference: a rank or a threshold stands before it, and float64 can tell."""
        graph = self.labels.graph
        return can_double(self.model) and any(
            op.index <= index and ref is not None and not graph.values[ref.value].dtype.is_floating_point
            for op in graph.ops
            if any(
                v.value in self.labels.from_input and graph.values[v.value].dtype.is_floating_point
                for v in op.inputs()
            )
            for ref in op.outputs
        )

    def _proved(self, rescales: tuple[Rescale, ...]) -> Failure | Success:
        double = can_double(self.model)
        try:
            pair = self._pair(double, rescales)
        except Diverged:
            if not double:
                raise
            double = False  # code with float32 written into it
            pair = self._pair(double, rescales)
        if isinstance(pair, Failure):
            return pair
        given = in_double(self.inputs, double)
        proof = self._compared(pair, given, pair.expected, double, beside=True)
        if double and proof.holds:
            fresh = refreshed(given, seed=1)
            again = tuple(run(pair.carrier, fresh, self._reference(pair, start)) for start in pair.starts)
            proof = joined([proof, self._compared(pair, fresh, again, double)])
        if not proof.holds or proof.vacuous:
            different = self._difference(pair, given, double)
            if different is not None:
                return different
        if not proof.holds:
            last = max(op.index for op in self.labels.graph.ops if op.index < BRANCH)
            return Failure(last, DIFFERENT, rescales=rescales, unread=_unread(pair.all_folds))
        return Success(
            pair.recipe, pair.folds.folds, proof, pair.constants, pair.left_out, rescales, pair.note
        )

    def _compared(
        self, pair: _Pair, inputs: Inputs, expected: tuple[Any, ...], double: bool, beside: bool = False
    ) -> Proof:
        """Compare the thinned model with what the reference gave; `beside`: with the masked model as it is, too."""
        exact = not (pair.constants or pair.left_out)
        proofs = []
        for start, wanted in zip(pair.starts, expected, strict=True):
            plain = None
            if beside:
                mode = CountingMode(start)
                mode.deferred = pair.deferred
                plain = wanted if exact else run(pair.masked, inputs, mode)
            proofs.append(compare(plain, wanted, run(pair.small, inputs, CountingMode(start)), double))
        return joined(proofs)

    def _pair(self, double: bool, rescales: tuple[Rescale, ...]) -> _Pair | Failure:
        """Run the reference, and make the thinned model that takes over its constants.

        The weights of the masked model are made as they are read, where nothing but ops reads them.
        """
        kinds = {type(module) for module in self.model.modules()}
        if not self.derived and not any(map(has_own_modes, kinds)):
            with contextlib.suppress(Diverged):
                return self._pair_of(double, rescales, Deferred())
        return self._pair_of(double, rescales, None)

    def _pair_of(
        self, double: bool, rescales: tuple[Rescale, ...], deferred: Deferred | None
    ) -> _Pair | Failure:
        masked, given = self._masked(double, deferred=deferred), in_double(self.inputs, double)
        scaled = {}
        if self.derived:
            scaled = rescaled_tensors(masked, self._small(double, self.recipe), self.recipe, self.derived)
        settled = settled_ops(self.labels, scaled)
        mode = ReferenceMode(self.labels, self.kept, settled=settled)
        mode.deferred = deferred
        modes, expected, note = [mode], [self._recorded(masked, given, mode)], ""
        _refuse_nan(expected[0])
        if self.labels.graph.branched and self.labels.graph.chance() is None:
            mode = ReferenceMode(self.labels, self.kept, settled=settled, start=BRANCH)
            mode.deferred = deferred
            try:
                expected.append(self._recorded(masked, given, mode))
                modes.append(mode)
            except Diverged as error:
                note = f"What only the training branch computes was not compared. {error}"
        constants = tuple(constant for mode in modes for constant in mode.constants)
        tensors: Mapping[str, Tensor] = {name: tensor.detach() for name, tensor in tensors_of(masked).items()}
        if deferred:
            tensors = FilledIn(tensors, deferred)
        folds = plan_folds(self.model, self.labels, constants, tensors)
        if folds.homeless:
            axes = tuple((c.op.index, c.contraction.data, c.contraction.data_axis) for c in folds.homeless)
            text = "the constant of its dead channels has no bias to go to"
            return Failure(axes[0][0], text, axes=axes, homeless=tuple(op for op, _, _ in axes))
        values = folded_tensors(folds.folds, self.recipe, tensors, self.kept)
        recipe = _with_added(self.recipe, folds.folds, values)
        values = tempered_tensors(rescales, recipe, tensors, values)
        for changes in scaled.values():
            values.update(changes)
        small = self._small(double, recipe)
        with torch.no_grad():
            for name, tensor in tensors_of(small).items():
                if name in values:
                    tensor.copy_(values[name])
        left_out = tuple(op for mode in modes for op in mode.left_out)
        pair = _Pair(
            masked,
            masked,
            small,
            recipe,
            folds,
            rescales,
            constants,
            left_out,
            settled,
            tuple(expected),
            note,
            deferred,
        )
        return self._carried(pair, double) if pair.placed else pair

    def _recorded(self, model: nn.Module, inputs: Inputs, mode: ReferenceMode) -> Any:
        """Run a model and see that it does what was recorded."""
        try:
            outputs = run(model, inputs, mode)
        except Exception as error:  # whatever the user's code raises
            cause = " ".join(str(error).split())
            raise Diverged(f"The masked model does not run as it was recorded: {cause}") from error
        if not (mode.repeats or (self.varying and mode.complete)):
            raise Diverged(
                "The masked model runs other operations than the model did when it was recorded; "
                "what changes from run to run cannot be proved."
            )
        return outputs

    def _carried(self, pair: _Pair, double: bool) -> _Pair:
        """Let the reference hold constants where the thinned model does, since rounding a bias changes them."""
        changes = {fold.name: fold.change for fold in pair.folds.folds if fold.carried}
        carrier, given = self._masked(double, changes), in_double(self.inputs, double)
        expected = tuple(run(carrier, given, self._reference(pair, start)) for start in pair.starts)
        return replace(pair, carrier=carrier, expected=expected)

    def _reference(self, pair: _Pair, start: int) -> ReferenceMode:
        mode = ReferenceMode(self.labels, self.kept, pair.constants, pair.placed, pair.settled, start)
        mode.deferred = pair.deferred
        return mode

    def _difference(self, pair: _Pair, inputs: Inputs, double: bool) -> Failure | None:
        """Look for the first op that differs.

        One whose constant a BatchNorm behind it took over does so rightly, and so does one that sees a factor ahead of the
        number which cancels it; a module with a new bias runs other ops.
        """
        moved = {index for fold in pair.all_folds for index in fold.between}
        moved |= {index for rescale in pair.rescales for index in rescale.between}
        grown = {fold.constant.op.source.module for fold in pair.all_folds if fold.new}
        skipped = {
            op.index for op in self.labels.graph.ops if _inside(op.source.module, grown)
        } | pair.settled
        for start in pair.starts:
            reference = ReferenceDigests(
                self.labels, self.kept, pair.constants, pair.placed, pair.settled, start
            )
            reference.deferred = pair.deferred
            different = first_difference(pair.carrier, pair.small, inputs, reference, double, moved, skipped)
            if different is not None:
                return Failure(different, DIFFERENT, rescales=pair.rescales, unread=_unread(pair.all_folds))
        return None

    def _prepared(self, name: str, tensor: Tensor, double: bool, thin: bool = False) -> Tensor:
        """Mask and convert a tensor of the full-size model or, if `thin`, one that is cut already."""
        given = tensor
        tensor = tensor.detach()
        if double and tensor.is_floating_point():
            tensor = tensor.double()
        mask = self.masks.get(name)
        if mask is not None and thin:
            mask = cut(mask, self.recipe.keep.get(name, {}))
        if mask is None:
            return tensor
        own = tensor.data_ptr() != given.data_ptr()
        return tensor.mul_(mask.to(tensor.device)) if own else tensor * mask.to(tensor.device)

    def _small(self, double: bool, recipe: Recipe) -> nn.Module:
        return thin_copy(self.model, recipe, lambda name, t: self._prepared(name, t, double, thin=True))

    def _masked(
        self,
        double: bool,
        changes: Mapping[str, Tensor] | None = None,
        deferred: Deferred | None = None,
    ) -> nn.Module:
        def own(name: str, tensor: Tensor) -> Tensor:
            new = name in self.masks or (double and tensor.is_floating_point())
            if deferred is not None and new and tensor.numel() >= SMALLEST and tensor.is_contiguous():
                like = tensor.new_empty(0, dtype=torch.float64 if double else None)
                return deferred.stand_in(
                    tuple(tensor.shape), like, lambda: self._prepared(name, tensor, double)
                )
            ready = self._prepared(name, tensor, double)
            if changes and name in changes:
                return ready + changes[name].to(ready)
            shared = isinstance(tensor, nn.Parameter) or ready.data_ptr() != tensor.data_ptr()
            return ready if shared else ready.clone()

        return clone(self.model, own)


def _unread(folds: Iterable[Fold]) -> tuple[int, ...]:
    """Contractions whose constant went to a new bias of a layer that they only take the weight of: code may not read it."""
    return tuple(
        fold.constant.op.index
        for fold in folds
        if fold.new and fold.name.rpartition(".")[0] != fold.constant.op.source.module
    )


def _inside(path: str, modules: Container[str]) -> bool:
    """Whether a module is one of these, or part of one."""
    parts = path.split(".")
    return any(".".join(parts[:depth]) in modules for depth in range(len(parts) + 1))


def _refuse_nan(outputs: Any) -> None:
    """A comparison of NaN with NaN would be no proof."""
    for leaf in output_tensors(outputs):
        if leaf.numel() and bool(torch.isnan(leaf).all()):
            raise InputError(
                "An output of the masked model is NaN throughout, so nothing can be proved. "
                "Look for NaN or negative variances in the weights, or give other example_inputs."
            )


def _attempt(
    model: nn.Module, inputs: Inputs, mode: CountingMode, *, disposable: bool = False
) -> Failure | None:
    try:
        run(model, inputs, mode, disposable=disposable)
    except Exception as error:  # whatever the user's code raises
        first = str(error).strip().splitlines()
        return Failure(mode.completed, f"{type(error).__name__}: {first[0] if first else ''}", True)
    return None


def _with_added(recipe: Recipe, folds: Iterable[Fold], values: Mapping[str, Tensor]) -> Recipe:
    """Return the recipe with the biases that constants ask for."""
    added = {fold.name: tuple(values[fold.name].shape) for fold in folds if fold.new}
    return Recipe(recipe.shapes, recipe.keep, recipe.attributes, {**recipe.added, **added})
