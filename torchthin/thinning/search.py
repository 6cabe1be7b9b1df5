"""What failed trials teach: the next way to divide an axis, attributes that follow, coupled sizes, freezes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from torchthin.dependency.components import Grouping, find_groups
from torchthin.dependency.labels import FlattenedAxis
from torchthin.dependency.propagate import CoupledAxes, FrozenAxis, Labels, propagate
from torchthin.dependency.registry import SplitChoice
from torchthin.errors import ProofError
from torchthin.graph.collector import collection_paused
from torchthin.graph.opgraph import BRANCH, Op, OpGraph
from torchthin.graph.size_uses import Sizes
from torchthin.selection.selection import Select, Selection
from torchthin.thinning.attributes import registered
from torchthin.thinning.build import sized_attributes, tensors_of
from torchthin.thinning.recipe import Recipe, kept_indices
from torchthin.thinning.reference import Kept
from torchthin.thinning.trial import Failure

BoolArray = npt.NDArray[np.bool_]
VIEWS = frozenset({"aten.view", "aten._unsafe_view", "aten._reshape_alias"})
DIVIDING = VIEWS | {"aten.split_with_sizes"}
WIDEN_AFTER = 2
"""Failures at one source line after which all calls of that line are treated alike."""


@dataclass(frozen=True)
class Proposal:
    """A recipe and what it rests on."""

    labels: Labels
    grouping: Grouping
    decision: Selection
    recipe: Recipe
    kept: Kept


@dataclass
class Search:
    """The state of the search: what was learnt from failures so far."""

    model: nn.Module
    graph: OpGraph
    decide: Select
    modules: dict[str, nn.Module]
    read: Callable[[], Sizes]
    """What the model's code does with integer attributes; asked for where axes are divided."""
    choices: dict[int, int] = field(default_factory=dict)
    blocks: dict[tuple[int, int, int], FrozenAxis] = field(default_factory=dict)
    patches: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """(module path, attribute) -> (value, axis) whose size it mirrors."""
    spent: set[tuple[str, str]] = field(default_factory=set)
    """Patches that did not help."""
    known: set[tuple[str, str]] = field(default_factory=set)
    """Attributes that follow from the shapes of their module's parameters."""
    couples: dict[int, CoupledAxes] = field(default_factory=dict)
    tentative: tuple[int, frozenset[int]] = (-1, frozenset())
    """Op before which code checked sizes, and the couples made for it."""
    uncoupled: frozenset[int] = frozenset()
    """Ops whose couples did not help."""
    failures: Counter[tuple[object, ...]] = field(default_factory=Counter)
    latest: tuple[int, tuple[tuple[str, str], ...]] = (-1, ())
    """Op at which attributes were last made to follow, and which."""
    sizes: Sizes | None = None
    unscaled: set[int] = field(default_factory=set)
    """Ops whose numbers no layer can take over: it was tried."""
    silent: set[int] = field(default_factory=set)
    """Ops that dead channels must reach as zeros."""

    @collection_paused()
    def propose(self) -> Proposal:
        """Label, group, select and write the recipe with what is known."""
        labels = propagate(self.graph, self.choices, self.blocks.values(), self.couples.values())
        self._expect_heads(labels)
        grouping = find_groups(labels)
        decision = self.decide(grouping, labels)
        tensors = tensors_of(self.model)
        shapes, keep = kept_indices(grouping.groups.groups, decision.keeps, tensors)
        gone = np.zeros(grouping.components.reason.size, np.bool_)
        for name, kept_channels in decision.keeps.items():
            gone[grouping.channels[name][~kept_channels]] = True
        kept = Kept(labels, grouping.components, gone)
        decision = replace(decision, masked_biases=self._silenced(kept, tensors))
        cut = Recipe(shapes, keep)
        attributes = sized_attributes(self.model, cut)
        self.known = {(path, name) for path, values in attributes.items() for name in values}
        if self.sizes is None and labels.split_choices:
            self.sizes = self.read()
        for path, name, size in (*self._used(kept, cut), *self._patched(kept)):
            attributes.setdefault(path, {})[name] = size
        return Proposal(labels, grouping, decision, Recipe(shapes, keep, attributes), kept)

    def _silenced(self, kept: Kept, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mask the biases that dead channels carry on their way to the ops that must see zeros."""
        met = [kept.labels.contractions[op] for op in sorted(self.silent & kept.labels.contractions.keys())]
        gone = [
            self._gone_at(item.data, item.data_axis, kept)
            for item in met
            if kept.along(item.data, item.data_axis) is not None
        ]
        comps = np.unique(np.concatenate([np.zeros(0, np.int64), *gone]))
        masks = {}
        for name, axes in kept.labels.state.items():
            if len(axes) == 1 and isinstance(axes[0], np.ndarray) and isinstance(tensors[name], nn.Parameter):
                hit = np.isin(kept.components.of_label[axes[0]], comps)
                if hit.any():
                    masks[name] = torch.from_numpy(~hit).to(tensors[name].device)
        return masks

    def _patched(self, kept: Kept) -> Iterator[tuple[str, str, int]]:
        for (path, name), (value, axis) in self.patches.items():
            stay = kept.along(value, axis)
            if stay is not None:
                yield path, name, getattr(self.modules[path], name) * int(stay.sum()) // stay.size

    def _used(self, kept: Kept, recipe: Recipe) -> Iterator[tuple[str, str, int]]:
        """Attributes that the code was seen to use as sizes; those that would need two values stay."""
        uses: dict[tuple[str, str], set[int]] = {}
        if self.sizes is None:
            return
        for use in self.sizes.uses:
            stay = kept.along(use.value, use.axis)
            size = self.graph.values[use.value].shape[use.axis] if stay is None else int(stay.sum())
            uses.setdefault((use.module, use.attribute), set()).add(size)
        for path, name in self.sizes.compared - uses.keys():
            met = Counter(recipe.sizes_after(path, getattr(self.modules[path], name)))
            uses[path, name] = {size for size, _ in met.most_common(1)}
        for (path, name), sizes in uses.items():
            module = self.modules[path]
            if len(sizes) == 1 and sizes != {getattr(module, name)} and not registered(module):
                yield path, name, sizes.pop()

    def _expect_heads(self, labels: Labels) -> None:
        """Where whole heads may go, expect an attribute named after heads to follow (a trial confirms it).

        A view may flatten the heads together with the batch; the attribute then shrinks in the same proportion.
        """
        for site in labels.split_choices:
            units = [candidate for candidate in site.candidates if candidate.startswith("unit ")]
            unit, result = site.candidates[site.chosen], site.op.outputs[0]
            module = self.modules.get(site.op.source.module)
            if unit not in units or result is None or module is None:
                continue
            found = (
                (d, labelled)
                for d, labelled in enumerate(labels.values[result.value])
                if isinstance(labelled, np.ndarray) and np.isin(labelled, site.labels).any()
            )
            axis, vector = next(found, (0, np.zeros(0, np.int64)))
            sizes = {vector.size, np.unique(vector).size}
            for name, number in vars(module).items():
                key = (site.op.source.module, name)
                fits = "head" in name and type(number) is int and number in sizes and key not in self.spent
                if fits and _within_head(name) == (unit == max(units)):
                    self.patches.setdefault(key, (result.value, axis))

    def factors(self) -> dict[int, float]:
        """Return what ops multiply with, where a layer may take over what becomes of it."""
        known = {} if self.sizes is None else self.sizes.factors
        return {op: factor for op, factor in known.items() if op not in self.unscaled}

    def doubtful(self, proposal: Proposal) -> bool:
        """Whether the proposal rests on choices that only a comparison can confirm."""
        return bool(proposal.labels.split_choices or self.patches or self.couples)

    def learn(self, failure: Failure, proposal: Proposal) -> None:
        """Change the next proposal after a failure."""
        kept = proposal.kept
        if self._unscale(failure) or (proposal.decision.mask_biases and self._silence(failure.homeless)):
            return
        if failure.axes:
            self.blocks.update({key: FrozenAxis(*key, failure.text) for key in failure.axes})
            return
        blamed = self._blamed(failure, kept)
        if blamed is None:
            if not self._revert(self.latest[0]):
                raise ProofError(
                    f"The thinned model fails where nothing that was cut arrives: {failure.text}"
                )
            return
        op, seen = blamed
        self.failures[self._kind(op)] += 1
        self._revert(op.index)
        self._uncouple(failure.op)
        learnt = (
            self._patch(op, seen, kept)
            or (failure.raised and self._couple_view(failure.op, kept))
            or self._next_candidate(op, seen, kept)
            or (failure.raised and self._couple(op, kept))
            or (failure.raised and self._couple_later(failure.op, kept))
        )
        if not learnt and not (proposal.decision.mask_biases and self._silence(failure.unread)):
            self._freeze(op, seen, failure.text, kept)

    def _silence(self, ops: Iterable[int]) -> bool:
        """Let dead channels be silent where what they emit had no place to go."""
        new = set(ops) - self.silent
        self.silent |= new
        return bool(new)

    def _unscale(self, failure: Failure) -> bool:
        """Leave numbers as they are that were taken over where the model now computes something else."""
        where = {op.index: op.source.module for op in self.graph.ops}
        last = failure.op == max(index for index in where if index < BRANCH)
        wrong = {
            item.op.index
            for item in failure.rescales
            if last or (item.op.index <= failure.op and item.op.source.module == where.get(failure.op))
        }
        self.unscaled |= wrong
        return bool(wrong)

    def _revert(self, op: int) -> bool:
        """Take back attributes that were made to follow at this op and did not help."""
        at, keys = self.latest
        made = {ref.value for o in self.graph.ops if o.index == op for ref in o.outputs if ref is not None}
        keys = keys if at == op else ()
        keys = (
            *keys,
            *(key for key, (value, _) in self.patches.items() if value in made and key not in keys),
        )
        if not keys:
            return False
        for key in keys:
            self.patches.pop(key, None)
            self.spent.add(key)
        self.latest = (-1, ())
        return True

    def _blamed(self, failure: Failure, kept: Kept) -> tuple[Op, list[tuple[int, int]]] | None:
        """The op at or just after the failure that saw cut axes, else the last before, else the next; and those axes.

        A view that Python code asks for is recorded as a copy and a view: where code raised, the view is to blame.
        """
        ops = self.graph.ops
        position = next((i for i, op in enumerate(ops) if op.index >= failure.op), len(ops) - 1)
        near = ops[position : position + 3]
        views = [op for op in near[:2] if op.name in VIEWS] if failure.raised else []
        for op in (*views, *near, *reversed(ops[:position]), *ops[position:]):
            seen = [(ref.value, axis) for ref in op.inputs() for axis in kept.cut_axes(ref.value)]
            if seen:
                return op, list(dict.fromkeys(seen))
        return None

    def _next_candidate(self, op: Op, seen: Iterable[tuple[int, int]], kept: Kept) -> bool:
        comps = np.unique(np.concatenate([self._gone_at(value, axis, kept) for value, axis in seen]))
        for site in reversed(kept.labels.split_choices):
            if site.op.index > op.index or site.chosen >= len(site.candidates) - 2:
                continue
            if np.isin(kept.components.of_label[site.labels], comps).any():
                self.failures[self._kind(site.op)] += 1
                for other in (*self._alike(site.op), *_same_unit(site, kept)):
                    self.choices[other.index] = max(self.choices.get(other.index, 0), site.chosen + 1)
                return True
        return False

    def _gone_at(self, value: int, axis: int, kept: Kept) -> npt.NDArray[np.int64]:
        labels = kept.labels.values[value][axis]
        assert labels is not None
        vectors = labels.parts if isinstance(labels, FlattenedAxis) else (labels,)
        comps = kept.components.of_label[np.concatenate(vectors)]
        return comps[kept.gone[comps]]

    def _patch(self, op: Op, seen: Sequence[tuple[int, int]], kept: Kept) -> bool:
        """Let an integer attribute of the op's module that equals a cut size follow it."""
        module = self.modules.get(op.source.module)
        if module is None or registered(module):
            return False
        made = [(ref.value, axis) for ref in op.outputs if ref for axis in kept.cut_axes(ref.value)]
        taken = self.patches.keys() | self.spent | self.known
        for value, axis in [*made, *seen]:
            size = self.graph.values[value].shape[axis]
            for name, number in vars(module).items():
                if type(number) is int and number == size and (op.source.module, name) not in taken:
                    self._mirror(op, name, value, axis)
                    return True
        return False

    def _mirror(self, op: Op, name: str, value: int, axis: int) -> None:
        position = _values(op).index(value)
        keys = []
        for other in self._alike(op):
            module = self.modules.get(other.source.module)
            if type(getattr(module, name, None)) is int:
                self.patches[other.source.module, name] = (_values(other)[position], axis)
                keys.append((other.source.module, name))
        self.latest = (op.index, tuple(keys))

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
            self.couples[other.index] = CoupledAxes(
                other.index, twin.data, twin.data_axis, made.value, twin.out_axis
            )
        return True

    def _couple_view(self, index: int, kept: Kept) -> bool:
        """Let what a view joins shrink as an input of its module does: Python code may use one size for both.

        Other modules of the same class run the same code, so what one has taught holds for all of them.
        """
        views = [op for op in self.graph.ops if index <= op.index <= index + 2]
        return any(self._couple_joined(op, kept) for op in views)

    def _couple_later(self, index: int, kept: Kept) -> bool:
        """The same for the views that the module comes to later: its code may check sizes before it uses them."""
        at = next((op for op in self.graph.ops if op.index >= index), None)
        if at is None or at.name in DIVIDING:
            return False
        before = set(self.couples)
        later = (op for op in self.graph.ops if op.index > index and op.source.module == at.source.module)
        found = any(self._couple_joined(op, kept) for op in later)
        self.tentative = index, frozenset(self.couples.keys() - before)
        return found

    def _uncouple(self, index: int) -> None:
        """Take back couples that were made because of this failure and did not help."""
        if self.tentative[0] == index:
            for op in self.tentative[1]:
                self.couples.pop(op, None)
            self.uncoupled |= self.tentative[1]
        self.tentative = -1, frozenset()

    def _couple_joined(self, op: Op, kept: Kept) -> bool:
        couple = self._joined_couple(op, kept)
        if couple is None:
            return False
        twins = [self._joined_couple(other, kept) for other in self._counterparts(op)]
        self.couples.update({twin.op: twin for twin in (couple, *twins) if twin is not None})
        return True

    def _joined_couple(self, op: Op, kept: Kept) -> CoupledAxes | None:
        if op.name not in DIVIDING:
            return None
        for result in op.outputs:
            for axis, joined in enumerate(kept.labels.values[result.value] if result is not None else ()):
                source = self._same_size(op, joined, kept) if isinstance(joined, np.ndarray) else None
                if source is not None and result is not None:
                    last, value, data_axis = source
                    if last not in self.couples and last not in self.uncoupled:
                        return CoupledAxes(last, value, data_axis, result.value, axis)
        return None

    def _counterparts(self, op: Op) -> list[Op]:
        """The ops of the same kind that stand at the same place in other modules of the same class."""
        kind, own = self._kind(op), type(self.modules.get(op.source.module))
        places: dict[str, list[Op]] = {}
        for other in self.graph.ops:
            if other.name == op.name and self._kind(other) == kind:
                places.setdefault(other.source.module, []).append(other)
        place = places.pop(op.source.module).index(op)
        return [
            ops[place]
            for path, ops in places.items()
            if place < len(ops) and type(self.modules.get(path)) is own
        ]

    def _same_size(self, op: Op, joined: npt.NDArray[np.int64], kept: Kept) -> tuple[int, int, int] | None:
        """A cut axis of the same size that goes into a contraction of the op's module, with other labels.

        Returns:
            index of the later op of the two (parts of a weight are there before what they are multiplied with), value, axis.
        """
        of_label = kept.components.of_label
        for other in self.graph.ops:
            contraction = kept.labels.contractions.get(other.index)
            if contraction is None or not other.source.module.startswith(op.source.module):
                continue
            if other.index >= op.index and op.name in VIEWS:
                continue
            vector = kept.labels.values[contraction.data][contraction.data_axis]
            if isinstance(vector, np.ndarray) and vector.size == joined.size:
                different = not np.array_equal(of_label[vector], of_label[joined])
                if different and kept.along(contraction.data, contraction.data_axis) is not None:
                    return max(op.index, other.index), contraction.data, contraction.data_axis
        return None

    def _freeze(self, op: Op, seen: Iterable[tuple[int, int]], text: str, kept: Kept) -> None:
        positions = [
            (number, axis) for number, value in enumerate(_values(op)) for v, axis in seen if v == value
        ]
        for other in self._alike(op):
            values = _values(other)
            for number, axis in positions:
                if number < len(values):
                    key = (other.index, values[number], axis)
                    self.blocks[key] = FrozenAxis(*key, text)

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


def _within_head(name: str) -> bool:
    """Whether an attribute named after heads is the size of one, not their number."""
    return any(word in name for word in ("dim", "size", "width", "channels"))


def _same_unit(site: SplitChoice, kept: Kept) -> list[Op]:
    """Ops that divide tied channels in the same way: queries, keys and values change their unit together."""
    if not site.candidates[site.chosen].startswith("unit "):
        return []
    alike = [other for other in kept.labels.split_choices if _way(other) == _way(site)]
    comps = [kept.components.of_label[other.labels] for other in alike]
    met = kept.components.of_label[site.labels]
    found: set[int] = set()
    while new := {n for n, own in enumerate(comps) if n not in found and np.isin(own, met).any()}:
        found |= new
        met = np.unique(np.concatenate([met, *(comps[n] for n in new)]))
    return [alike[n].op for n in sorted(found)]


def _way(site: SplitChoice) -> tuple[tuple[str, ...], int]:
    return site.candidates, site.chosen


def _values(op: Op) -> list[int]:
    return [*op.reads, *(ref.value for ref in op.outputs if ref is not None)]
