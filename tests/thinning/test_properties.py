"""Random nets, random selections: the masked model computes what the thinned one does, and nothing else happens.

Hundreds of nets run by default; with ``TORCHTHIN_HYPOTHESIS_PROFILE=nightly`` thousands, other ones every time.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from nets.blocks import BLOCKS, Net
from nets.small import lively
from snapshot import Snapshot
from torch import Tensor, nn

from torchthin import Recipe
from torchthin.dependency.components import Grouping
from torchthin.dependency.producers import producers
from torchthin.dependency.propagate import Labels
from torchthin.errors import InputError
from torchthin.graph.inputs import as_inputs
from torchthin.graph.parametrized import derived_weights
from torchthin.graph.trace import trace
from torchthin.selection.channels import prune_count, select_channels
from torchthin.selection.masks import apply_masks_
from torchthin.selection.selection import Selection
from torchthin.selection.selectors import masks_of, producers_of
from torchthin.thinning.apply import apply_
from torchthin.thinning.search.trial_loop import ThinningPlan, changed_tensors, find_plan

EXACT = 1e-9
Keep = npt.NDArray[np.bool_]

specs = st.tuples(st.sampled_from(sorted(BLOCKS)), st.sampled_from([4, 8, 12]), st.integers(0, 3))
nets = st.tuples(st.lists(specs, min_size=1, max_size=4), st.integers(0, 2))


@dataclass
class AtRandom:
    """Cuts a share of every group, which channels is drawn by the group's name."""

    model: nn.Module
    seed: int
    share: float
    given: Mapping[str, Keep] = field(default_factory=dict)
    """Selections that are given, by group name."""

    def __call__(self, grouping: Grouping, labels: Labels) -> Selection:
        axes = producers(labels)
        groups = [group for group in grouping.groups.groups if producers_of(group, axes)]
        scores = {
            g.name: np.random.default_rng([self.seed, zlib.crc32(g.name.encode())]).random(g.size)
            for g in groups
        }
        keeps = select_channels(groups, scores, self.share)
        for name, keep in self.given.items():
            if name in keeps and keep.size == keeps[name].size:
                keeps[name] = keep
        masks = masks_of(groups, keeps, self.model, axes, (), derived_weights(self.model))
        return Selection(keeps, masks, axes=axes, masks_makers=True)


def built(plan: list[tuple[str, int, int]], head: int) -> nn.Module:
    return lively(Net(plan, head).double()).eval()


def without_biases(model: nn.Module) -> nn.Module:
    """Without biases and shifts, most masked channels emit nothing."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "bias" in name or name.endswith("running_mean"):
                tensor.zero_()
    return model


def picture(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def off_by(model: nn.Module, other: nn.Module) -> float:
    """Largest relative difference of two models on inputs that the search never saw."""
    with torch.no_grad():
        a, b = model(picture(7)), other(picture(7))
    assert a.shape == b.shape
    return float((a - b).abs().max() / a.abs().max())


def thinned(model: nn.Module, plan: ThinningPlan) -> tuple[nn.Module, nn.Module]:
    """The masked copy and the thinned copy."""
    masked = copy.deepcopy(model)
    apply_masks_(masked, plan.proposal.masks)
    small = copy.deepcopy(masked)
    apply_(small, plan.recipe, values=changed_tensors(masked, plan))
    return masked, small


def damaged(recipe: Recipe) -> Recipe:
    """The last thing to be changed lies beyond the size of its axis."""
    name = list(recipe.keep)[-1]
    axis, kept = next(iter(recipe.keep[name].items()))
    return replace(recipe, keep={**recipe.keep, name: {axis: (*kept[:-1], recipe.shapes[name][axis])}})


def check(model: nn.Module, plan: ThinningPlan, share: float) -> None:
    selection = plan.proposal.selection
    for group in plan.proposal.grouping.groups.groups:
        if group.name in selection.keeps and not group.balances:
            removed = int((~selection.keeps[group.name]).sum())
            assert removed == prune_count(share, group.size), group.name
    if not plan.recipe:
        return
    assert plan.outcome.proof is not None
    assert plan.outcome.proof.relative <= EXACT
    again = Recipe.from_dict(json.loads(json.dumps(plan.recipe.to_dict())))
    assert again == plan.recipe
    masked, small = thinned(model, plan)
    for name, tensor in small.state_dict().items():
        if name in plan.recipe.keep:
            assert tuple(tensor.shape) == plan.recipe.shape_after(name)
    if plan.outcome.proof.exact:
        assert off_by(masked, small) <= EXACT
    full = copy.deepcopy(model)
    untouched = Snapshot(full)
    with pytest.raises(InputError):
        apply_(full, damaged(again))
    assert untouched.changes() == []
    apply_(full, again)
    full.load_state_dict(small.state_dict())
    assert off_by(full, small) == 0


@settings(suppress_health_check=list(HealthCheck), max_examples=settings().max_examples * 2 // 5)
@given(nets, st.integers(0, 2**31), st.sampled_from([0.25, 0.5, 0.75]))
# a layer that is called twice gets a bias for one call; a ReLU hides from the example inputs that the other call adds it too
@example(([("shared", 4, 3), ("squeeze_excite", 12, 0), ("shared", 4, 2), ("shared", 12, 0)], 2), 3, 0.75)
def test_masked_is_thinned(net: tuple[list[tuple[str, int, int]], int], seed: int, share: float) -> None:
    model = built(*net)
    before = Snapshot(model)
    plan = find_plan(trace(model, as_inputs(picture())), AtRandom(model, seed, share))
    assert before.changes() == []
    check(model, plan, share)


def sizes(plan: ThinningPlan) -> dict[str, int]:
    return {name: keep.size for name, keep in plan.proposal.selection.keeps.items()}


@settings(suppress_health_check=list(HealthCheck), max_examples=settings().max_examples // 5)
@given(nets, st.integers(0, 2**31))
@example(([("attention", 4, 0), ("normed", 4, 1)], 0), 0)  # asks how its activations lie in memory
def test_one_after_the_other_is_both_at_once(net: tuple[list[tuple[str, int, int]], int], seed: int) -> None:
    """The recipes are the same; so are the outputs where the channels of the first cut emitted no constant.

    (Where they did, the second cut meets that constant as a bias, which a mask leaves alone. Under spectral norm every mask
    rescales what stays, so the second one starts from other weights.)
    """
    model = without_biases(built(*net)) if seed % 2 else built(*net)
    inputs = as_inputs(picture())
    first = find_plan(trace(model, inputs), AtRandom(model, seed, 0.25))
    _, small = thinned(model, first)
    second = find_plan(trace(small, inputs), AtRandom(small, seed + 1, 0.5))
    _, smaller = thinned(small, second)
    keeps, later = first.proposal.selection.keeps, second.proposal.selection.keeps
    # What is left of a group must be a group of the smaller model (what could not be cut there is frozen there).
    assume({name: int(keep.sum()) for name, keep in keeps.items()} == sizes(second))
    both: dict[str, Keep] = {}
    for name, keep in keeps.items():
        both[name] = keep.copy()
        both[name][np.flatnonzero(keep)] = later[name]
    at_once = find_plan(trace(model, inputs), AtRandom(model, seed, 0.0, both))
    assume(sizes(first) == sizes(at_once))
    composed = first.recipe.then(second.recipe)
    assert composed.keep == at_once.recipe.keep
    _, direct = thinned(model, at_once)
    rescaled = any(item.rescaled for item in derived_weights(model).values())
    if (
        not rescaled
        and not first.outcome.absorptions
        and all(plan.outcome.proof is None or plan.outcome.proof.exact for plan in (first, second, at_once))
    ):
        assert off_by(direct, smaller) <= EXACT


@pytest.mark.parametrize("variant", range(4))
@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_every_block_is_cut(name: str, variant: int) -> None:
    model = built([(name, 8, variant), ("conv", 8, 0)], 0)
    plan = find_plan(trace(model, as_inputs(picture())), AtRandom(model, 5, 0.5))
    check(model, plan, 0.5)
    cut = {parameter for parameter in plan.recipe.keep if parameter.startswith("blocks.0.")}
    assert cut, [str(item) for item in plan.proposal.grouping.groups.frozen]
