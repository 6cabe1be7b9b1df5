"""`inspect`: what of a model can be pruned, in which groups, and what is in the way; `overview`: its layers and groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from torchthin.config import LAYERS, PruneConfig
from torchthin.dependency.components import Grouping, find_groups
from torchthin.dependency.experts import Experts
from torchthin.dependency.groups import Group
from torchthin.dependency.kinds import KINDS, kinds_of, whole_heads
from torchthin.dependency.producers import producers, with_tables
from torchthin.dependency.propagate import Labels, propagate
from torchthin.graph.better_examples import trace_more
from torchthin.graph.inputs import as_inputs, check_model, on_device_of
from torchthin.graph.layers import find_stacks
from torchthin.graph.trace import Traced
from torchthin.importance.scores import is_filter_member
from torchthin.pruning.expert_plans import KIND, removable_experts
from torchthin.report.inspection import (
    FrozenFacts,
    GroupFacts,
    Inspection,
    KindFacts,
    LayerChannels,
    Overview,
)
from torchthin.selection.channels import select_channels
from torchthin.selection.selection import Selection
from torchthin.selection.selectors import maskable, masks_of, producers_of
from torchthin.thinning.search.constraints import Constraints
from torchthin.thinning.search.trial_loop import find_plan

PROBE = 0.5
"""Share of every group that is cut on trial."""


def inspect(model: nn.Module, example_inputs: Any, *, proof: str = "quick") -> Inspection:
    """Find the dependency groups of `model`, which is left as it is.

    Args:
        model: any model; on the meta device only the recorded graph is looked at, nothing is tried.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        proof: half of every group is cut on a copy, and what fails is frozen and named. "quick" and "full" compare the copy
            with the masked model, as in `torchthin.prune`; "off" only runs it.

    Raises:
        InputError: model or inputs cannot be used.
    """
    check_model(model, "inspect")
    traced = trace_more(model, on_device_of(model, as_inputs(example_inputs)))
    how = Constraints.of(PruneConfig(proof=proof))
    tried = not any(p.is_meta for p in model.parameters())
    if tried:
        how = replace(how, units=whole_heads(traced.graph))
        proposal = find_plan(traced, _HalfSelector(traced), constraints=how).proposal
        labels, grouping = proposal.labels, proposal.grouping
    else:
        labels = propagate(traced.graph, units=whole_heads(traced.graph))
        grouping = find_groups(labels)
    axes, kinds = with_tables(labels), dict(kinds_of(grouping, labels).of_groups)
    groups = [group for group in grouping.groups.groups if group.name in kinds]
    facts = [_group_facts(group, axes, kinds[group.name]) for group in groups]
    experts, stuck = removable_experts(traced, how.proof, tried=tried)
    for site in experts:
        groups.append(site.group)
        kinds[site.group.name] = KIND
        found = _group_facts(site.group, site.axes, KIND)
        facts.append(replace(found, coupled=(*found.coupled, *site.lists)))
    routers = {name for site in experts for name in site.axes} | stuck.keys()
    frozen = tuple(item for item in _frozen_facts(grouping, axes) if item.weight not in routers)
    kind_facts = [_with_lists(item, experts, model) for item in _kind_facts(groups, kinds, model)]
    return Inspection(
        tuple(facts),
        (*frozen, *(FrozenFacts(name, count, reason) for name, (count, reason) in stuck.items())),
        tuple(dict.fromkeys(op.name for op in labels.unknown)),
        tuple(name for name, _ in model.named_parameters() if name not in labels.graph.state),
        tried,
        tried and proof != "off",
        (*kind_facts, *_layer_facts(traced)),
    )


def _with_lists(facts: KindFacts, experts: Sequence[Experts], model: nn.Module) -> KindFacts:
    """Return the facts of a kind with the share of experts that are modules."""
    lists = tuple(f"{path}." for site in experts for path in site.lists)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    held = sum(size for name, size in sizes.items() if name.startswith(lists)) if facts.kind == KIND else 0
    return replace(facts, parameters=facts.parameters + held / sum(sizes.values()))


def _layer_facts(traced: Traced) -> Iterator[KindFacts]:
    """Yield what there is of whole layers, the first and the last of each stack left out, as they stay unless they are named."""
    may_go = [[x.path for x in stack.layers if x.path not in stack.ends] for stack in find_stacks(traced)]
    sizes = {name: parameter.numel() for name, parameter in traced.model.named_parameters()}
    paths = [path for some in may_go for path in some]
    lost = sum(n for name, n in sizes.items() if any(name.startswith(f"{path}.") for path in paths))
    if paths:
        meaning = "no channels: blocks that add to a stream, which can be left out whole"
        yield KindFacts(LAYERS, meaning, sum(map(bool, may_go)), len(paths), lost / sum(sizes.values()))


def _kind_facts(groups: Sequence[Group], kinds: Mapping[str, str], model: nn.Module) -> Iterator[KindFacts]:
    """Yield what there is of every kind, and the share of the parameters that goes with it."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    total = sum(map(math.prod, shapes.values()))
    for kind, meaning in KINDS.items():
        same = [group for group in groups if kinds[group.name] == kind]
        met: dict[str, dict[int, int]] = {}
        for member in (member for group in same for member in group.members if member.parameter in shapes):
            axes = met.setdefault(member.parameter, {})
            axes[member.axis] = axes.get(member.axis, 0) + member.indices.size
        left = {
            name: math.prod(n - axes.get(axis, 0) for axis, n in enumerate(shapes[name]))
            for name, axes in met.items()
        }
        lost = sum(math.prod(shapes[name]) - count for name, count in left.items())
        if same:
            yield KindFacts(kind, meaning, len(same), sum(group.size for group in same), lost / total)


@dataclass(frozen=True)
class _HalfSelector:
    """Select `PROBE` of every group, and mask it: only channels that are dead become constants."""

    traced: Traced

    def __call__(self, grouping: Grouping, labels: Labels) -> Selection:
        axes, derived = with_tables(labels), self.traced.derived
        groups = [
            group for group in maskable(grouping.groups.groups, axes, derived) if producers_of(group, axes)
        ]
        random = np.random.default_rng(0)
        keeps = select_channels(groups, {g.name: random.random(g.size) for g in groups}, PROBE)
        masks = masks_of(groups, keeps, self.traced.model, axes, (), derived, views=True)
        return Selection(keeps, masks, axes=axes, masks_makers=True)


def overview(model: nn.Module, example_inputs: Any) -> Overview:
    """Follow the channels of `model`, which is left as it is, through one run. Nothing is cut on trial.

    Args:
        model: any model.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.

    Raises:
        InputError: model or inputs cannot be used.
    """
    check_model(model, "overview")
    graph = trace_more(model, on_device_of(model, as_inputs(example_inputs))).graph
    labels = propagate(graph, units=whole_heads(graph))
    grouping = find_groups(labels)
    axes, kinds = producers(labels), kinds_of(grouping, labels).of_groups
    groups = [group for group in grouping.groups.groups if producers_of(group, axes)]
    read = dict.fromkeys(graph.names[value] for op in graph.ops for value in op.reads if value in graph.names)
    produced: dict[str, list[int]] = {}
    consumed: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        for member in group.members:
            side = produced if is_filter_member(member, axes) else consumed
            side.setdefault(member.parameter, []).append(number)
    shapes = {name: graph.values[value].shape for name, value in graph.state.items()}
    layers = tuple(
        LayerChannels(
            name,
            type(model.get_submodule(name.rpartition(".")[0])).__name__,
            shapes[name][axes[name]],
            tuple(dict.fromkeys(produced.get(name, ()))),
            tuple(dict.fromkeys(consumed.get(name, ()))),
        )
        for name in read
        if name in axes and len(shapes[name]) > 1
    )
    return Overview(
        layers,
        tuple(_group_facts(group, axes, kinds[group.name]) for group in groups),
        _frozen_facts(grouping, axes),
    )


def _group_facts(group: Group, axes: Mapping[str, int], kind: str) -> GroupFacts:
    filters = dict.fromkeys(m.parameter for m in group.members if is_filter_member(m, axes))
    others = dict.fromkeys(f"{m.parameter}[{m.axis}]" for m in group.members if not is_filter_member(m, axes))
    return GroupFacts(group.name, group.size, tuple(filters), tuple(others), bool(group.balances), kind)


def _frozen_facts(grouping: Grouping, axes: Mapping[str, int]) -> tuple[FrozenFacts, ...]:
    return tuple(
        FrozenFacts(item.parameter, item.count, item.reason)
        for item in grouping.groups.frozen
        if axes.get(item.parameter) == item.axis
    )
