"""Thin by trying: a recipe is run on a copy, compared with the reference, and mended until it holds.

Which of several legal ways an axis may be divided, and whether a number written in Python follows the model, is known only
to the model's own code. So the recipe is tried: where the copy fails or computes something else, the op it happened at names
the channels to blame; they take their next way, and only when there is none left are they frozen, with the error as reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from torchthin.errors import ProofError
from torchthin.labels.components import Grouping, find_groups
from torchthin.labels.propagate import Block, Couple, Labels, propagate
from torchthin.thinning.attributes import registered
from torchthin.thinning.build import sized_attributes, tensors_of, thin_copy
from torchthin.thinning.constants import Fold, folded, plan_folds
from torchthin.thinning.recipe import Recipe, kept_indices
from torchthin.thinning.reference import Constant, Kept, ReferenceMode
from torchthin.trace.clone import clone, share
from torchthin.trace.inputs import Inputs, call
from torchthin.trace.opgraph import Op, OpGraph
from torchthin.trace.recorder import CountingMode, as_outputs, quiet, record
from torchthin.verify import Proof, compare

BoolArray = npt.NDArray[np.bool_]
ROUNDS = 200
WIDEN_AFTER = 2
"""Failures at one source line after which all calls of that line are treated alike."""


@dataclass(frozen=True)
class Decision:
    """What a selection decided about the groups it was shown."""

    keeps: Mapping[str, BoolArray]
    masks: Mapping[str, Tensor]
    """Weight name -> mask, True = keep: what the masked model zeroes."""


Decide = Callable[[Grouping, Labels], Decision]


@dataclass(frozen=True)
class Plan:
    """A recipe that has run and agrees with the reference."""

    grouping: Grouping
    labels: Labels
    decision: Decision
    recipe: Recipe
    folds: tuple[Fold, ...]
    proof: Proof | None
    left_out: tuple[Op, ...]
    """Ops whose statistics run over fewer channels than in the masked model."""
    constants: tuple[Constant, ...]
    rounds: int


@dataclass(frozen=True)
class _Failure:
    op: int
    text: str
    raised: bool = False
    """The model's code raised an exception; else it ran and computed something else."""


@dataclass
class _Search:
    """The state of the search: what was learnt from failures so far."""

    model: nn.Module
    graph: OpGraph
    decide: Decide
    modules: dict[str, nn.Module]
    choices: dict[int, int] = field(default_factory=dict)
    blocks: dict[tuple[int, int, int], Block] = field(default_factory=dict)
    patches: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """(module path, attribute) -> (value, axis) whose size it mirrors."""
    spent: set[tuple[str, str]] = field(default_factory=set)
    """Patches that did not help."""
    known: set[tuple[str, str]] = field(default_factory=set)
    """Attributes that follow from the shapes of their module's parameters."""
    couples: dict[int, Couple] = field(default_factory=dict)
    failures: Counter[tuple[object, ...]] = field(default_factory=Counter)

    def propose(self) -> tuple[Labels, Grouping, Decision, Recipe, Kept]:
        """Label, group, select and write the recipe with what is known."""
        labels = propagate(self.graph, self.choices, self.blocks.values(), self.couples.values())
        grouping = find_groups(labels)
        decision = self.decide(grouping, labels)
        tensors = tensors_of(self.model)
        shapes, keep = kept_indices(grouping.groups.groups, decision.keeps, tensors)
        gone = np.zeros(grouping.components.reason.size, np.bool_)
        for name, kept_channels in decision.keeps.items():
            gone[grouping.channels[name][~kept_channels]] = True
        kept = Kept(labels, grouping.components, gone)
        attributes = sized_attributes(self.model, Recipe(shapes, keep))
        self.known = {(path, name) for path, values in attributes.items() for name in values}
        for (path, name), (value, axis) in self.patches.items():
            stay = kept.along(value, axis)
            if stay is not None:
                attributes.setdefault(path, {})[name] = int(stay.sum())
        return labels, grouping, decision, Recipe(shapes, keep, attributes), kept

    def learn(self, failure: _Failure, labels: Labels, kept: Kept) -> None:
        """Change the next proposal after a failure."""
        op, seen = self._blamed(failure.op, kept)
        self.failures[self._kind(op)] += 1
        learnt = (
            self._patch(op, seen, kept)
            or self._next_candidate(op, seen, labels, kept)
            or (failure.raised and self._couple(op, kept))
        )
        if not learnt:
            self._freeze(op, seen, failure.text, kept)

    def _blamed(self, index: int, kept: Kept) -> tuple[Op, list[tuple[int, int]]]:
        """The op at or after `index` that saw cut axes, else the last before it, with those axes."""
        ops = self.graph.ops
        position = next((i for i, op in enumerate(ops) if op.index >= index), len(ops) - 1)
        for op in (*ops[position : position + 3], *reversed(ops[:position])):
            seen = [(ref.value, axis) for ref in op.inputs() for axis in kept.cut_axes(ref.value)]
            if seen:
                return op, list(dict.fromkeys(seen))
        raise ProofError("The thinned model fails although nothing that was cut reaches the failing operation.")

    def _next_candidate(self, op: Op, seen: Iterable[tuple[int, int]], labels: Labels, kept: Kept) -> bool:
        comps = np.unique(np.concatenate([self._gone_at(value, axis, kept) for value, axis in seen]))
        for site in reversed(labels.sites):
            if site.op.index > op.index or site.chosen >= len(site.candidates) - 2:
                continue
            if np.isin(kept.components.of_label[site.labels], comps).any():
                self.failures[self._kind(site.op)] += 1
                for other in self._alike(site.op):
                    self.choices[other.index] = max(self.choices.get(other.index, 0), site.chosen + 1)
                return True
        return False

    def _gone_at(self, value: int, axis: int, kept: Kept) -> npt.NDArray[np.int64]:
        vector = kept.labels.values[value][axis]
        assert isinstance(vector, np.ndarray)
        comps = kept.components.of_label[vector]
        return comps[kept.gone[comps]]

    def _patch(self, op: Op, seen: Sequence[tuple[int, int]], kept: Kept) -> bool:
        """Let an integer attribute of the op's module that equals a cut size follow it."""
        module = self.modules.get(op.source.module)
        if module is None or registered(module):
            return False
        made = [(ref.value, axis) for ref in op.outputs if ref for axis in kept.cut_axes(ref.value)]
        tried = [key for key in self.patches if key[0] == op.source.module]
        for value, axis in [*made, *seen]:
            size = self.graph.values[value].shape[axis]
            for name, number in vars(module).items():
                key = (op.source.module, name)
                if type(number) is int and number == size and key not in (self.patches.keys() | self.spent | self.known):
                    self._mirror(op, name, value, axis)
                    return True
        for key in tried:
            del self.patches[key]
            self.spent.add(key)
        return False

    def _mirror(self, op: Op, name: str, value: int, axis: int) -> None:
        position = _position(op, value)
        for other in self._alike(op):
            module = self.modules.get(other.source.module)
            if isinstance(getattr(module, name, None), int):
                self.patches[other.source.module, name] = (_values(other)[position], axis)

    def _couple(self, op: Op, kept: Kept) -> bool:
        """Let the result of a contraction shrink as its input does: Python code may use one size for both."""
        contraction = kept.labels.contractions.get(op.index)
        if contraction is None or op.index in self.couples:
            return False
        result = op.outputs[0]
        assert result is not None
        data, out = contraction.data, result.value
        a = kept.labels.values[data][contraction.data_axis]
        b = kept.labels.values[out][contraction.out_axis]
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)) or a is b or b.size % a.size:
            return False
        for other in self._alike(op):
            twin = kept.labels.contractions[other.index]
            made = other.outputs[0]
            assert made is not None
            self.couples[other.index] = Couple(other.index, twin.data, twin.data_axis, made.value, twin.out_axis)
        return True

    def _freeze(self, op: Op, seen: Iterable[tuple[int, int]], text: str, kept: Kept) -> None:
        positions = [(number, axis) for number, value in enumerate(_values(op)) for v, axis in seen if v == value]
        for other in self._alike(op):
            values = _values(other)
            for number, axis in positions:
                if number < len(values):
                    key = (other.index, values[number], axis)
                    self.blocks[key] = Block(*key, text)

    def _kind(self, op: Op) -> tuple[object, ...]:
        """Ops of one kind are calls of one line of code on tensors of the same shapes."""
        shapes = tuple(self.graph.values[value].shape for value in _values(op))
        return (op.name, op.source.file, op.source.line, shapes)

    def _alike(self, op: Op) -> list[Op]:
        """The op alone at first; all of its kind once they have failed often."""
        kind = self._kind(op)
        if self.failures[kind] <= WIDEN_AFTER:
            return [op]
        return [other for other in self.graph.ops if other.name == op.name and self._kind(other) == kind]


def _values(op: Op) -> list[int]:
    return [*(ref.value for ref in op.inputs()), *(ref.value for ref in op.outputs if ref is not None)]


def _position(op: Op, value: int) -> int:
    return _values(op).index(value)


def find_plan(model: nn.Module, inputs: Inputs, decide: Decide, *, prove: bool = True) -> Plan:
    """Search for a recipe that runs and agrees.

    Args:
        model: full-size model, left as it is.
        inputs: example inputs on the model's device.
        decide: selection over the groups it is shown; called again whenever groups change.
        prove: compare with the reference in float64; False checks only that the thinned model runs.

    Raises:
        ProofError: when no recipe was found within the allowed rounds.
    """
    graph = record(clone(model, share), inputs).live()
    search = _Search(model, graph, decide, dict(model.named_modules()))
    for round_ in range(ROUNDS):
        labels, grouping, decision, recipe, kept = search.propose()
        if not recipe:
            return Plan(grouping, labels, decision, recipe, (), None, (), (), round_ + 1)
        outcome = _try(model, inputs, labels, kept, decision, recipe, prove)
        if isinstance(outcome, _Failure):
            search.learn(outcome, labels, kept)
            continue
        recipe, folds, proof, mode = outcome
        return Plan(
            grouping, labels, decision, recipe, tuple(folds), proof, tuple(mode.left_out), tuple(mode.constants), round_ + 1
        )
    raise ProofError(f"No way to thin the model was found in {ROUNDS} attempts. Freeze layers with keep=[...].")


def _try(
    model: nn.Module,
    inputs: Inputs,
    labels: Labels,
    kept: Kept,
    decision: Decision,
    recipe: Recipe,
    prove: bool,
) -> _Failure | tuple[Recipe, list[Fold], Proof | None, ReferenceMode]:
    double = prove and _all_real(model)

    def prepare(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if double and tensor.is_floating_point():
            tensor = tensor.double()
        mask = decision.masks.get(name)
        return tensor if mask is None else tensor * mask.to(tensor.device)

    small = thin_copy(model, recipe, prepare)
    given = inputs.map(lambda t: t.double() if double and t.is_floating_point() else t)
    ran = _run(small, given)
    if isinstance(ran, _Failure):
        return ran
    masked = clone(model, lambda name, t: _own(prepare(name, t), t))
    reference = ReferenceMode(labels, kept)
    expected = _outputs(masked, given, reference)
    folds, homeless = plan_folds(model, labels, reference.constants)
    if homeless:
        return _Failure(homeless[0].op.index, "the constant of its dead channels has no bias to go to")
    recipe = fold_(small, recipe, folds, kept)
    actual = _run(small, given)
    if isinstance(actual, _Failure):
        return actual
    plain = _outputs(masked, given, CountingMode())
    proof = compare(plain, expected, actual, double)
    if not proof.holds or proof.vacuous:
        different = _first_difference(masked, small, given, labels, kept, double)
        if different is not None or not proof.holds:
            last = labels.graph.ops[-1].index
            return _Failure(last if different is None else different, "masked and thinned differ")
    return recipe, folds, proof, reference


def _own(ready: Tensor, original: Tensor) -> Tensor:
    return ready.clone() if ready.data_ptr() == original.data_ptr() else ready


def _all_real(model: nn.Module) -> bool:
    return not any(p.is_complex() for p in model.parameters())


def fold_(small: nn.Module, recipe: Recipe, folds: Iterable[Fold], kept: Kept) -> Recipe:
    """Write the constants into a thinned model; return the recipe with the biases that this added."""
    added = dict(recipe.added)
    tensors = dict(small.state_dict(keep_vars=True))
    for fold in folds:
        ref = fold.constant.op.outputs[0]
        assert ref is not None
        keep = kept.along(ref.value, fold.constant.contraction.out_axis)
        chosen = None if keep is None else torch.from_numpy(np.flatnonzero(keep))
        if fold.new:
            size = fold.constant.delta.numel() if chosen is None else chosen.numel()
            path, _, local = fold.name.rpartition(".")
            like = next(p for p in small.get_submodule(path).parameters())
            setattr(small.get_submodule(path), local, nn.Parameter(like.detach().new_zeros(size)))
            added[fold.name] = (size,)
            tensors[fold.name] = small.get_parameter(fold.name)
        tensor = tensors[fold.name]
        with torch.no_grad():
            tensor.copy_(folded(tensor, fold, chosen))
    return Recipe(recipe.shapes, recipe.keep, recipe.attributes, added)


def _outputs(model: nn.Module, inputs: Inputs, mode: CountingMode) -> Any:
    with quiet(model):
        model.eval()
        with mode:
            return call(model, inputs)


def _run(model: nn.Module, inputs: Inputs) -> Any:
    mode = CountingMode()
    try:
        return _outputs(model, inputs, mode)
    except Exception as error:  # whatever the user's code raises
        first = str(error).strip().splitlines()
        return _Failure(mode.completed, f"{type(error).__name__}: {first[0] if first else ''}", True)


class _Digests(CountingMode):
    """Short fingerprints of every op's results, of what stays of them."""

    def __init__(self, labels: Labels, kept: Kept | None) -> None:
        super().__init__()
        self._ops = {op.index: op for op in labels.graph.ops}
        self._kept = kept
        self.found: dict[int, list[tuple[tuple[int, ...], Tensor]]] = {}

    def note(self, result: Any) -> None:
        """Fingerprint the results of the op that has just run."""
        op = self._ops.get(self.completed)
        if op is None:
            return
        prints = []
        for ref, tensor in zip(op.outputs, as_outputs(result), strict=False):
            if ref is not None and tensor is not None and tensor.is_floating_point():
                stays = tensor if self._kept is None else self._kept.select(ref.value, tensor)
                prints.append((tuple(stays.shape), _fingerprint(stays)))
        self.found[self.completed] = prints


class _ThinDigests(_Digests):
    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        self.note(result)
        return result


class _ReferenceDigests(ReferenceMode):
    def __init__(self, labels: Labels, kept: Kept) -> None:
        super().__init__(labels, kept)
        self.digests = _Digests(labels, kept)

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().execute(func, args, kwargs)
        self.digests.completed = self.completed
        self.digests.note(result)
        return result


def _fingerprint(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1).double()
    weights = torch.cos(torch.arange(flat.numel(), dtype=torch.float64, device=flat.device) * 1.7)
    return torch.stack([(flat * weights).sum(), flat.abs().sum()])


def _first_difference(
    masked: nn.Module, small: nn.Module, inputs: Inputs, labels: Labels, kept: Kept, double: bool
) -> int | None:
    """Return the index of the first op after which the thinned model differs from the reference, if there is one."""
    reference = _ReferenceDigests(labels, kept)
    thin = _ThinDigests(labels, None)
    _outputs(masked, inputs, reference)
    _outputs(small, inputs, thin)
    tolerance = 1e-7 if double else 1e-3
    for index, prints in reference.digests.found.items():
        others = thin.found.get(index, [])
        same = len(prints) == len(others) and all(
            shape == other and torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(a[1] + 1e-12))
            for (shape, a), (other, b) in zip(prints, others, strict=True)
        )
        if not same:
            return index
    return None
