"""Experts removed: the thinned model is compared with the dense one in which no router picks what was removed.

A router's row of zeros is a logit of zero, which may well be picked. So nothing is masked: the dense model runs with the logits
of removed experts at minus infinity, which no router picks and which has no share in a softmax. The numbers of experts that
modules keep are found by trying: all that equal it change, then fewer, until the thinned model runs and computes the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, combinations, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchthin.dependency.components import Grouping, find_groups
from torchthin.dependency.experts import Experts
from torchthin.dependency.groups import ChannelGroups
from torchthin.dependency.propagate import propagate
from torchthin.errors import ProofError, one_line
from torchthin.graph.deferred import Deferred
from torchthin.graph.inputs import Inputs, refreshed, resized
from torchthin.graph.kept_integers import exchange_integers_
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.precision import DOUBLE, SINGLE, Precision
from torchthin.graph.trace import Traced
from torchthin.graph.tracked import Attribute
from torchthin.selection.selection import BoolArray, Selection
from torchthin.thinning.attributes import has_known_sizes, sized_attributes
from torchthin.thinning.proof.models import Models
from torchthin.thinning.proof.verdict import Proof, compare, joined, not_run
from torchthin.thinning.recipe import Recipe, kept_indices
from torchthin.thinning.search.constraints import Constraints, Proposal
from torchthin.thinning.search.outcome import Success
from torchthin.thinning.search.trial_loop import ThinningPlan
from torchthin.thinning.survivors import Survivors

_TRIES = 64
"""Sets of attributes that are tried."""
_FIRST = 5.0
"""What the logit of a token's first choice is above random ones."""
_NUDGE = 1e-3
"""What is added to logits that may be equal, in the mean."""


@dataclass(frozen=True)
class ExpertCut:
    """What is kept of the experts of one router."""

    experts: Experts
    keep: BoolArray
    """Shape (experts,)."""

    @cached_property
    def removed(self) -> Tensor:
        """Numbers of the experts that are removed."""
        return torch.from_numpy(np.flatnonzero(~self.keep))

    @cached_property
    def kept(self) -> Tensor:
        """Numbers of the experts that are kept."""
        return torch.from_numpy(np.flatnonzero(self.keep))


class _Routed(CountingMode):
    """Runs a model and changes the results of some ops of its record."""

    def __init__(
        self, traced: Traced, changes: Mapping[int, Callable[[Tensor], Tensor]], precision: Precision
    ) -> None:
        super().__init__(0, traced.graph.call_sites[0])
        self.precision = precision
        self._changes = changes
        self.met: set[int] = set()

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op; what a router makes becomes what is asked for."""
        result = self.compute(func, args, kwargs)
        change = self._changes.get(self.completed) if self.recorded else None
        if change is None:
            return result
        self.met.add(self.completed)
        return change(result)


def plan_experts(
    traced: Traced,
    cuts: Sequence[ExpertCut],
    selection: Selection,
    constraints: Constraints,
    note: str = "",
) -> ThinningPlan:
    """Return the plan that removes experts, tried and, unless nothing is to be compared, proved.

    Args:
        traced: the full-size model, left as it is, and its record.
        cuts: of which routers experts are removed.
        selection: the same as a selection among groups.
        constraints: how much is compared.
        note: a line of the report.

    Raises:
        ProofError: no thinned model computes what the dense one does without these experts.
    """
    labels = propagate(traced.graph)
    ties = find_groups(labels).components
    grouping = Grouping(ChannelGroups(selection.groups), ties, {})
    survivors = Survivors(labels, ties, np.zeros(ties.reason.size, np.bool_))
    recipe = Recipe(*kept_indices(selection.groups, selection.keeps, traced.tensors))
    lists = {name: cut for cut in cuts for name in cut.experts.lists if not cut.keep.all()}
    recipe = replace(
        recipe,
        attributes=sized_attributes(traced.model, recipe),
        layers={name: tuple(cut.kept.tolist()) for name, cut in lists.items()},
        lengths={name: cut.experts.size for name, cut in lists.items()},
    )
    draft = Proposal(
        traced, constraints, labels, grouping, selection, recipe, survivors, frozenset(), None, ()
    )  # fmt: skip
    failed = ""
    for number, attributes in enumerate(_attribute_sets(traced, cuts), 1):
        proposal = replace(draft, recipe=replace(recipe, attributes=_joined(recipe.attributes, attributes)))
        proof = _proof(proposal, cuts)
        if proof.holds:
            shown = None if constraints.proof == "off" else proof
            return ThinningPlan(proposal, Success(proposal.recipe, proof=shown, note=note), number)
        failed = failed or proof.sentence()
    where = cuts[0].experts.block or "the model"
    raise ProofError(
        f"Experts of {where} cannot be removed: without their logits the dense model computes something else than the thinned "
        f"one ({failed}). Prune other kinds, or exclude the module."
    )


def _joined(*attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for each in attributes:
        for path, values in each.items():
            found.setdefault(path, {}).update(values)
    return found


def _attribute_sets(traced: Traced, cuts: Sequence[ExpertCut]) -> Iterator[dict[str, dict[str, int]]]:
    """Yield the attributes that may have to change, with their new values: all first, those in configurations last."""
    found = [(place, after) for cut in cuts for place, after in _numbers(traced, cut)]
    own = list(dict.fromkeys(place.path for place, _ in found if "." not in place.path))
    held = list(dict.fromkeys(place.path for place, _ in found if "." in place.path))
    sets = chain(_subsets(own), ([*own, *some] for some in _subsets(held) if some))
    for names in islice(sets, _TRIES):  # there may be very many
        chosen: dict[str, dict[str, int]] = {}
        for place, after in found:
            if place.path in names:
                chosen.setdefault(place.module, {})[place.path] = after
        yield _joined(chosen, _above(traced, cuts, names))


def _subsets(names: Sequence[str]) -> Iterator[list[str]]:
    for size in range(len(names), -1, -1):
        yield from map(list, combinations(names, size))


def _numbers(traced: Traced, cut: ExpertCut) -> Iterator[tuple[Attribute, int]]:
    """Yield the integers near a router that are its number of experts, with what is left of it."""
    start = f"{cut.experts.block}." if cut.experts.block else ""
    modules = [
        (path, module)
        for path, module in traced.modules.items()
        if (path == cut.experts.block or path.startswith(start))
        and not has_known_sizes(module)
        and not path.startswith(tuple(f"{name}." for name in cut.experts.lists))
    ]
    met: list[Attribute] = []

    def note(place: Attribute, number: int) -> int:
        if number == cut.experts.size:
            met.append(place)
        return number

    exchange_integers_(modules, note)
    yield from ((place, len(cut.kept)) for place in met)


def _above(traced: Traced, cuts: Sequence[ExpertCut], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the attributes of the same names in modules around all routers, where all lose the same."""
    sizes = {(cut.experts.size, len(cut.kept)) for cut in cuts}
    if len(sizes) != 1:
        return {}
    before, after = sizes.pop()
    found: dict[str, dict[str, int]] = {}
    for path, module in traced.modules.items():
        around = all(not path or cut.experts.block.startswith(f"{path}.") for cut in cuts)
        own = {name: after for name in names if around and vars(module).get(name) == before}
        if own:
            found[path] = own
    return found


def _proof(proposal: Proposal, cuts: Sequence[ExpertCut]) -> Proof:
    """Compare in float64, where that costs too much or the code does not run in it in float32."""
    large = proposal.traced.is_large and proposal.constraints.proof != "full"
    failed: Exception | None = None
    for precision in (SINGLE, DOUBLE) if large else (DOUBLE, SINGLE):
        for deferred in (Deferred(), None):  # code may take numbers out of weights
            try:
                proof = _Trial(proposal, cuts, precision, deferred).proof()
            except _DoesNotRun as error:
                failed = error
                continue
            if proof.holds or precision is DOUBLE:
                return proof
            failed = None
            break
    if failed is not None:
        raise ProofError(f"The model does not run again as it was recorded ({failed}).") from failed
    return proof


class _DoesNotRun(Exception):
    """The dense model does not run in this precision."""


@dataclass(frozen=True)
class _Trial:
    """The dense and the thinned model in one precision."""

    proposal: Proposal
    cuts: Sequence[ExpertCut]
    precision: Precision
    deferred: Deferred | None
    """Widened weights that are made as they are read."""

    @cached_property
    def models(self) -> tuple[nn.Module, nn.Module]:
        """The dense model and the thinned one."""
        models = Models(replace(self.proposal, selection=Selection({})), (), True)
        put_off, recipe = self.deferred, self.proposal.recipe
        return models.masked(self.precision, deferred=put_off), models.thinned(
            self.precision, recipe, deferred=put_off
        )

    def proof(self) -> Proof:
        """Compare on the example, with other numbers, at another size, and with logits that reach every expert."""
        given = self.precision.inputs(self.proposal.traced.inputs)
        first = self._compared(given, "own")
        if not first.holds or self.proposal.constraints.proof == "off":
            return first
        proofs = [first, *(self._compared(given, "drawn", turn) for turn in range(self._turns))]
        fresh = refreshed(given, seed=1, integers=True)
        for inputs in (fresh, *resized(fresh)):
            with contextlib.suppress(_DoesNotRun):  # on inputs that the model does not take
                proofs.append(self._compared(inputs, "own"))
        return joined(proofs)

    @property
    def _turns(self) -> int:
        """How often the example must run so that every kept expert is a token's first choice."""
        graph = self.proposal.traced.graph
        tokens = {
            op: math.prod(graph.values[graph.by_index[op].results[0]].shape[:-1])
            for cut in self.cuts
            for op in cut.experts.logits
        }
        return max(-(-len(cut.kept) // max(tokens[op], 1)) for cut in self.cuts for op in cut.experts.logits)

    def _compared(self, inputs: Inputs, logits: str, turn: int = 0) -> Proof:
        """Compare on some inputs.

        Of experts with equal logits either may be picked, so where the models differ they are compared with other ones.

        Args:
            inputs: in this precision.
            logits: "own" (the routers' own), "drawn" (random ones, every token with a first choice of its own), "nudged" (with a
                small number added to each expert's).
            turn: number of the run with drawn ones: tokens go on where those of the last one ended.
        """
        dense, thin = self.models
        try:
            expected = self._run(dense, inputs, self._changes(logits, turn, thinned=False))
        except Exception as error:  # whatever the user's code raises
            raise _DoesNotRun(one_line(error)) from error
        try:
            actual = self._run(thin, inputs, self._changes(logits, turn, thinned=True))
        except Exception as error:  # whatever the user's code raises
            return not_run(error, self.precision)
        proof = compare(expected, expected, actual, self.precision)
        tied = logits == "own" and not proof.holds and proof.problem is None
        return self._compared(inputs, "nudged") if tied else proof

    def _run(
        self, model: nn.Module, inputs: Inputs, changes: Mapping[int, Callable[[Tensor], Tensor]]
    ) -> Any:
        mode = _Routed(self.proposal.traced, changes, self.precision)
        mode.deferred = self.deferred
        outputs = run(model, inputs, mode)
        if mode.met != changes.keys():
            raise ProofError("The model's routers do not run as they were recorded.")
        return outputs

    def _changes(self, logits: str, turn: int, *, thinned: bool) -> dict[int, Callable[[Tensor], Tensor]]:
        return {
            op: partial(_changed, cut, op, logits if op in cut.experts.logits else "own", turn, thinned)
            for cut in self.cuts
            for op in cut.experts.logits | cut.experts.shifted
            if not thinned or (logits != "own" and op in cut.experts.logits)
        }


def _changed(cut: ExpertCut, op: int, how: str, turn: int, thinned: bool, logits: Tensor) -> Tensor:
    """Return what a router makes, as `how` says, and minus infinity for removed experts."""
    if how != "own":
        rows = logits.numel() // logits.shape[-1] if how == "drawn" else 1
        drawn = torch.randn((rows, cut.experts.size), generator=torch.Generator().manual_seed(op))
        first = cut.kept[(turn * rows + torch.arange(rows)) % len(cut.kept)]
        drawn[torch.arange(rows), first] += _FIRST
        drawn = (drawn.index_select(-1, cut.kept) if thinned else drawn).to(logits)
        logits.copy_(drawn.view_as(logits) if how == "drawn" else logits + _NUDGE * drawn)
    return logits if thinned else logits.index_fill_(-1, cut.removed.to(logits.device), -torch.inf)
