"""One trial of a recipe: does the thinned copy run, and does it compute what the reference computes?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchthin.labels.propagate import Labels
from torchthin.thinning.build import tensors_of, thin_copy
from torchthin.thinning.constants import Fold, folded_tensors, plan_folds
from torchthin.thinning.fingerprints import ReferenceDigests, ThinDigests, first_difference, run
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.reference import Constant, Kept, ReferenceMode
from torchthin.trace.clone import clone
from torchthin.trace.inputs import Inputs, call, refreshed
from torchthin.trace.opgraph import BRANCH, Op
from torchthin.trace.recorder import CountingMode, quiet, training_branch
from torchthin.verify import Proof, can_double, compare, in_double, joined


@dataclass(frozen=True)
class Failure:
    """Where and how a trial failed."""

    op: int
    """Index of the first op that failed or differed."""
    text: str
    raised: bool = False
    """The model's code raised an exception; else it ran and computed something else."""


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

    def run(self, *, prove: bool, doubtful: bool) -> Failure | Success:
        """Run the trial.

        Args:
            prove: compare outputs with the reference; False: check that the thinned model runs.
            doubtful: choices were made, so look for differences op by op first, which is cheaper than a failed proof.
        """
        small = self._small(False, self.recipe)
        failure = _attempt(small, self.inputs, CountingMode(), nn.Module.eval)
        if failure is None and self.labels.graph.branched:
            failure = _attempt(small, self.inputs, CountingMode(BRANCH), training_branch)
        if failure is not None:
            return failure
        if not prove:
            return Success(self.recipe, (), None, (), ())
        double = can_double(self.model)
        if not (doubtful and double):
            return self._compared(double, pinpoint=doubtful)
        outcome = self._compared(False, pinpoint=True)
        return outcome if isinstance(outcome, Failure) else self._compared(True, pinpoint=False)

    def _compared(self, double: bool, *, pinpoint: bool) -> Failure | Success:
        """Compare outputs; with `pinpoint` also the results of every op, so that a failure names the first that differs."""
        masked = self._masked(double)
        given = in_double(self.inputs, double)
        reference = ReferenceDigests(self.labels, self.kept) if pinpoint else ReferenceMode(self.labels, self.kept)
        expected = run(masked, given, reference)
        folds, homeless = plan_folds(self.model, self.labels, reference.constants)
        if homeless:
            return Failure(homeless[0].op.index, "the constant of its dead channels has no bias to go to")
        small, recipe = self._folded(folds, double)
        thin = ThinDigests(self.labels) if pinpoint else CountingMode()
        actual = run(small, given, thin)
        exact = not (reference.constants or reference.left_out)
        plain = expected if exact else run(masked, given, CountingMode())
        proofs = [compare(plain, expected, actual, double)]
        if double:
            fresh = refreshed(given, seed=1)
            again = run(masked, fresh, ReferenceMode(self.labels, self.kept))
            proofs.append(compare(None, again, run(small, fresh, CountingMode()), double))
        proof = joined(proofs)
        if isinstance(reference, ReferenceDigests) and isinstance(thin, ThinDigests):
            between = {index for fold in folds for index in fold.between}
            different = first_difference(reference, thin, 1e-7 if double else 1e-3, between)
            rounding = not double and can_double(self.model)  # deep models amplify it; float64 will tell
            if different is not None or not (proof.holds or rounding):
                last = max(op.index for op in self.labels.graph.ops if op.index < BRANCH)
                return Failure(last if different is None else different, "the thinned model computes something else")
        elif not proof.holds or proof.vacuous:
            return self._compared(double, pinpoint=True)
        return Success(recipe, tuple(folds), proof, tuple(reference.constants), tuple(reference.left_out))

    def _folded(self, folds: Sequence[Fold], double: bool) -> tuple[nn.Module, Recipe]:
        """Return the thinned model with its constants folded in, and the recipe with the biases that this added."""
        prepared = {name: self._prepared(name, t, double) for name, t in tensors_of(self.model).items()}
        values = folded_tensors(folds, self.recipe, prepared, self.kept)
        recipe = _with_added(self.recipe, folds, values)
        small = self._small(double, recipe)
        with torch.no_grad():
            for name, tensor in tensors_of(small).items():
                if name in values:
                    tensor.copy_(values[name])
        return small, recipe

    def _prepared(self, name: str, tensor: Tensor, double: bool) -> Tensor:
        tensor = tensor.detach()
        if double and tensor.is_floating_point():
            tensor = tensor.double()
        mask = self.masks.get(name)
        return tensor if mask is None else tensor * mask.to(tensor.device)

    def _small(self, double: bool, recipe: Recipe) -> nn.Module:
        return thin_copy(self.model, recipe, lambda name, t: self._prepared(name, t, double))

    def _masked(self, double: bool) -> nn.Module:
        def own(name: str, tensor: Tensor) -> Tensor:
            ready = self._prepared(name, tensor, double)
            shared = isinstance(tensor, nn.Parameter) or ready.data_ptr() != tensor.data_ptr()
            return ready if shared else ready.clone()

        return clone(self.model, own)


def _attempt(
    model: nn.Module, inputs: Inputs, mode: CountingMode, prepare: Callable[[nn.Module], object]
) -> Failure | None:
    try:
        with quiet(model):
            prepare(model)
            with mode:
                call(model, inputs)
    except Exception as error:  # whatever the user's code raises
        first = str(error).strip().splitlines()
        return Failure(mode.completed, f"{type(error).__name__}: {first[0] if first else ''}", True)
    return None


def _with_added(recipe: Recipe, folds: Iterable[Fold], values: Mapping[str, Tensor]) -> Recipe:
    """Return the recipe with the biases that constants ask for."""
    added = {fold.name: tuple(values[fold.name].shape) for fold in folds if fold.new}
    return Recipe(recipe.shapes, recipe.keep, recipe.attributes, {**recipe.added, **added})
