"""`inspect`: what of a model can be pruned, in which groups, and what is in the way of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from torchthin.dependency.components import Grouping, find_groups, producers
from torchthin.dependency.groups import ChannelGroups, Group
from torchthin.dependency.propagate import Labels, propagate
from torchthin.graph.inputs import as_inputs, on_device_of
from torchthin.graph.model import check_model
from torchthin.graph.trace import Traced, trace
from torchthin.report.inspection import FrozenFacts, GroupFacts, Inspection
from torchthin.selection.channels import select_channels
from torchthin.selection.selection import Selection
from torchthin.selection.selectors import maskable, masks_of, producers_of
from torchthin.thinning.plan import find_plan

PROBE = 0.5
"""Share of every group that is cut on trial."""


def inspect(model: nn.Module, example_inputs: Any, *, prove: bool = True) -> Inspection:
    """Find the groups of `model`, which is left as it is.

    Args:
        model: any model; on the meta device only the recorded graph is looked at, nothing is tried.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        prove: cut half of every group on a copy and compare; what fails is frozen and named. False is faster and may
            show groups that turn out not to go.

    Raises:
        InputError: model or inputs cannot be used.
    """
    check_model(model, "inspect")
    traced = trace(model, on_device_of(model, as_inputs(example_inputs)))
    proved = prove and not any(p.is_meta for p in model.parameters())
    if proved:
        proposal = find_plan(traced, _HalfSelector(traced)).proposal
        labels, grouping = proposal.labels, proposal.grouping
    else:
        labels = propagate(traced.graph)
        grouping = find_groups(labels)
    axes = producers(labels)
    unused = tuple(name for name, _ in model.named_parameters() if name not in labels.graph.state)
    return Inspection(
        tuple(_group_facts(group, axes) for group in grouping.groups.groups if producers_of(group, axes)),
        _frozen_facts(grouping.groups, axes),
        tuple(dict.fromkeys(op.name for op in labels.unknown)),
        unused,
        proved,
    )


@dataclass(frozen=True)
class _HalfSelector:
    """Select `PROBE` of every group, and mask it: only channels that are dead become constants."""

    traced: Traced

    def __call__(self, grouping: Grouping, labels: Labels) -> Selection:
        axes, derived = producers(labels), self.traced.derived
        groups = [
            group for group in maskable(grouping.groups.groups, axes, derived) if producers_of(group, axes)
        ]
        random = np.random.default_rng(0)
        keeps = select_channels(groups, {g.name: random.random(g.size) for g in groups}, PROBE)
        masks = masks_of(groups, keeps, self.traced.model, axes, (), derived, views=True)
        return Selection(keeps, masks, axes=axes, mask_biases=True)


def _group_facts(group: Group, axes: dict[str, int]) -> GroupFacts:
    names = producers_of(group, axes)
    return GroupFacts(
        group.name,
        group.size,
        tuple(
            dict.fromkeys(
                m.parameter for m in group.members if m.parameter in names and axes[m.parameter] == m.axis
            )
        ),
        tuple(
            dict.fromkeys(
                f"{m.parameter}[{m.axis}]" for m in group.members if axes.get(m.parameter) != m.axis
            )
        ),
        bool(group.balances),
    )


def _frozen_facts(groups: ChannelGroups, axes: dict[str, int]) -> tuple[FrozenFacts, ...]:
    return tuple(
        FrozenFacts(item.parameter, item.count, item.reason)
        for item in groups.frozen
        if axes.get(item.parameter) == item.axis
    )
