"""`thin_`: remove from a model, in place, the channels that its masks (or its zeros) have killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.dependency.components import find_groups
from torchthin.dependency.kinds import head_widths, whole_heads
from torchthin.dependency.propagate import propagate
from torchthin.errors import ProofError, TargetMissedError, one_line
from torchthin.graph.better_examples import trace_more
from torchthin.graph.clone import clone, duplicate, state_tensors
from torchthin.graph.inputs import Inputs, as_inputs, check_model, on_device_of
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.opgraph import OpGraph
from torchthin.graph.outputs import output_tensors
from torchthin.graph.precision import precision_of
from torchthin.selection.masks import apply_masks_
from torchthin.selection.selectors import DeadChannelSelector, effective_weights
from torchthin.thinning.apply import apply_
from torchthin.thinning.proof.verdict import Proof, compare, verdict_line
from torchthin.thinning.recipe import Recipe, cut
from torchthin.thinning.search.constraints import Constraints
from torchthin.thinning.search.trial_loop import ThinningPlan, changed_tensors, find_plan


@dataclass(frozen=True)
class Thinned:
    """What `thin_` did."""

    recipe: Recipe
    proof: Proof | None
    """None with ``proof="off"``."""
    parameters_before: int
    parameters_after: int
    inexact: tuple[str, ...] = ()
    """Layers where the thinned model is another function than the masked one, with the cause."""

    def __str__(self) -> str:
        sizes = f"parameters {self.parameters_before:,} -> {self.parameters_after:,}"
        return f"Thinned: {sizes}. Proof: {verdict_line(self.proof, self.inexact)}."


def thin_(
    model: nn.Module,
    example_inputs: Any,
    *,
    masks: Mapping[str, Tensor] | None = None,
    threshold: float = 0.0,
    exact: bool = False,
    add_biases: bool = False,
    proof: str = "quick",
    optimizer: torch.optim.Optimizer | None = None,
) -> Thinned:
    """Remove dead channels from `model` in place, after a trial on copies has proved the result.

    A channel is dead when all that makes it is zero (filters, columns of embeddings, positions, weights of layer norms): by
    `masks`, by the masks of ``torch.nn.utils.prune``, or in the weights themselves; when nothing reads it; and behind a
    BatchNorm whose scale is zero. What it still emits (a bias, a BatchNorm shift) is absorbed into the biases of its consumers.
    A channel that depends on the input is never removed.

    Parameters, buffers and modules keep their identity, so optimizers and references stay valid.

    Args:
        model: a model that carries masks or zeroed filters.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        masks: weight name -> bool tensor, True = keep; applied first (``prune(...).masks``).
        threshold: what is not above it (all weights of a filter, a BatchNorm's scale) counts as zero.
        exact, add_biases, proof: as in `torchthin.prune`; with ``proof="off"`` the thinned model itself must run, once.
        optimizer: its state (SGD, Adam, AdamW, RMSprop, ...) is cut alike, so that training goes on. Where weights take a
            factor f, because the code's attention scale changed, the state is cut, not divided by f: gradients there
            are 1 / f times as large from now on, and the optimizer learns that within its first steps.

    Returns:
        recipe, proof and sizes.

    Raises:
        InputError: masks, inputs or optimizer do not fit the model.
        TargetMissedError: no channel can be removed; the message says what is in the way.
        ProofError: no way to thin held. In all cases the model is as it was.
    """
    check_model(model, "thin_")
    inputs = on_device_of(model, as_inputs(example_inputs))
    how = Constraints.of(PruneConfig(exact=exact, add_biases=add_biases, proof=proof))
    return carry_out_(plan_thinning(model, inputs, masks or {}, how, threshold), optimizer)


@dataclass(frozen=True)
class PlannedThinning:
    """A thinning that was tried on a copy, and proved unless nothing was to be compared."""

    model: nn.Module
    """The caller's own, unchanged."""
    masks: Mapping[str, Tensor]
    masked: nn.Module
    """A copy of it, masked."""
    plan: ThinningPlan


def plan_thinning(
    model: nn.Module,
    inputs: Inputs,
    masks: Mapping[str, Tensor],
    constraints: Constraints | None = None,
    threshold: float = 0.0,
) -> PlannedThinning:
    """Find a recipe, tried and proved, that removes what is dead in `model` under `masks`.

    Raises:
        TargetMissedError: no channel can be removed.
        ProofError: no way to thin held.
    """
    masked = clone(model, duplicate)
    apply_masks_(masked, masks)
    effective = effective_weights(masked)
    plan = dead_channels_plan(masked, inputs, DeadChannelSelector(effective, threshold), constraints)
    if not plan.recipe:
        raise TargetMissedError(
            f"The model has no dead channel that can be removed. {_in_the_way(plan, effective)} Prune first, or see inspect."
        )
    return PlannedThinning(model, masks, masked, plan)


def dead_channels_plan(
    masked: nn.Module, inputs: Inputs, select: DeadChannelSelector, constraints: Constraints | None = None
) -> ThinningPlan:
    """Find a plan that removes dead channels: of attention whole heads, or the width of heads, whichever is dead.

    Raises:
        ProofError: no way to thin held.
    """
    traced = trace_more(masked, inputs)
    ways: list[Mapping[int, int]] = [whole_heads(traced.graph)]
    if ways[0]:
        ways += [head_widths(traced.graph), {}]
    units = max(ways, key=lambda way: _entries_removed(select, traced.graph, way)) if ways[1:] else {}
    return find_plan(traced, select, constraints=replace(constraints or Constraints(), units=units))


def _entries_removed(select: DeadChannelSelector, graph: OpGraph, units: Mapping[int, int]) -> int:
    """Return how many rows and columns are removed where attention is divided in a way."""
    labels = propagate(graph, units=units)
    grouping = find_groups(labels)
    keeps = select(grouping, labels).keeps
    groups = [group for group in grouping.groups.groups if group.name in keeps]
    return sum(member.removed(keeps[group.name]).size for group in groups for member in group.members)


def _in_the_way(plan: ThinningPlan, effective: Mapping[str, Tensor]) -> str:
    """Say of a channel that is dead why it stays; that there is none, where that is so."""
    made_along = plan.proposal.selection.axes
    for item in plan.proposal.grouping.groups.frozen:
        if made_along.get(item.parameter) == item.axis:
            rows = effective[item.parameter].movedim(item.axis, 0).flatten(1)
            if not bool((rows != 0).any(1).all()):
                return f"Some channels of {item.parameter} are dead and stay: {item.reason}."
    return "A channel is dead where all weights that make it are zero, in every layer that is coupled to it."


def carry_out_(planned: PlannedThinning, optimizer: torch.optim.Optimizer | None) -> Thinned:
    """Thin the model as planned, with what the masks zero, and run it once: a copy was proved, and this is the original.

    Raises:
        InputError: the optimizer does not fit the model; nothing is changed then.
        ProofError: the thinned model does not run, or computes something else than the copy; it is changed back.
    """
    model, masked, plan = planned.model, planned.masked, planned.plan
    before = sum(p.numel() for p in model.parameters())
    values = {**_masked_values(planned), **changed_tensors(masked, plan)}
    inputs, check = plan.proposal.traced.inputs, partial(_outputs, model, plan.proposal.traced.inputs)
    if plan.outcome.proof is not None:
        apply_(masked, plan.recipe, values=values)
        check = partial(_require_same, model, inputs, run(masked, inputs, CountingMode()))
    apply_(model, plan.recipe, optimizer, values, check=check)
    after = sum(p.numel() for p in model.parameters())
    return Thinned(plan.recipe, plan.outcome.proof, before, after, plan.outcome.inexact)


def _masked_values(planned: PlannedThinning) -> dict[str, Tensor]:
    """Return what remains of every tensor that has a mask, under the first of its names."""
    tensors = dict(state_tensors(planned.masked))
    first = {id(tensor): name for name, tensor in tensors.items()}
    tensors |= dict(planned.masked.named_parameters(remove_duplicate=False))
    names = {first[id(tensors[name])] for name in planned.masks}
    return {name: cut(tensors[name].detach(), planned.plan.recipe.keep.get(name, {})) for name in names}


def _outputs(model: nn.Module, inputs: Inputs) -> Any:
    """Run the thinned model; refuse one that does not run as the copy of it did."""
    try:
        return run(model, inputs, CountingMode())
    except Exception as error:  # whatever the user's code raises
        raise _unlike_copy(
            model, f"does not run once it is thinned, as its copy did: {one_line(error)}"
        ) from error


def _require_same(model: nn.Module, inputs: Inputs, expected: Any) -> None:
    """Refuse a model that computes something else than the copy of it that was thinned in the same way."""
    actual = _outputs(model, inputs)
    kinds = {tensor.dtype for tensor in output_tensors(expected) if tensor.is_floating_point()}
    proof = compare(None, expected, actual, precision_of(kinds))
    rounding = 16 * max((torch.finfo(kind).eps for kind in kinds), default=0.0)
    if proof.problem is None and proof.relative <= max(proof.tolerance, rounding):
        return
    how = proof.problem or f"off by {proof.relative:.1e} of the output's largest value"
    raise _unlike_copy(
        model, f"computes something else once it is thinned than the copy that was proved: {how}"
    )


def _unlike_copy(model: nn.Module, how: str) -> ProofError:
    return ProofError(
        f"The model ({type(model).__name__}) {how}. "
        "A function outside of its modules, such as a hook that looks at a global, reads their sizes; let it use the module "
        "that it is given. The model is as it was."
    )
