"""`overview`: the layers of a model in the order in which they run, and which channels of them go together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from torchthin.dependency.components import find_groups, producers
from torchthin.dependency.propagate import propagate
from torchthin.graph.inputs import as_inputs, on_device_of
from torchthin.graph.model import check_model
from torchthin.graph.trace import trace
from torchthin.selection.selectors import producers_of


@dataclass(frozen=True)
class LayerBox:
    """One weight that makes channels."""

    name: str
    """Of its parameter."""
    kind: str
    """Class of its module."""
    channels: int
    makes: tuple[int, ...]
    """Numbers of the groups that its filters belong to; none where all of them stay."""
    takes: tuple[int, ...]
    """Numbers of the groups that its inputs belong to."""


@dataclass(frozen=True)
class GroupBox:
    """Channels that go together."""

    name: str
    channels: int
    makers: tuple[str, ...]


@dataclass(frozen=True)
class FrozenBox:
    """Filters that stay."""

    weight: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Overview:
    """A network as its layers and groups."""

    layers: tuple[LayerBox, ...]
    """In the order in which their weights are first read."""
    groups: tuple[GroupBox, ...]
    frozen: tuple[FrozenBox, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return asdict(self)


def overview(model: nn.Module, example_inputs: Any) -> Overview:
    """Follow the channels of `model`, which is left as it is, through one run. Nothing is cut on trial.

    Args:
        model: any model.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.

    Raises:
        InputError: model or inputs cannot be used.
    """
    check_model(model, "overview")
    graph = trace(model, on_device_of(model, as_inputs(example_inputs))).graph
    labels = propagate(graph)
    found = find_groups(labels).groups
    axes = producers(labels)
    groups = [group for group in found.groups if producers_of(group, axes)]
    order = dict.fromkeys(
        graph.names[value] for op in graph.ops for value in op.reads if value in graph.names
    )
    made: dict[str, list[int]] = {name: [] for name in order}
    taken: dict[str, list[int]] = {name: [] for name in order}
    for number, group in enumerate(groups):
        for member in group.members:
            side = made if axes.get(member.parameter) == member.axis else taken
            side.setdefault(member.parameter, []).append(number)
    shapes = {name: graph.values[value].shape for name, value in graph.state.items()}
    return Overview(
        tuple(
            LayerBox(
                name,
                type(model.get_submodule(name.rpartition(".")[0])).__name__,
                shapes[name][axes[name]],
                tuple(dict.fromkeys(made[name])),
                tuple(dict.fromkeys(taken[name])),
            )
            for name in order
            if name in axes and len(shapes[name]) > 1
        ),
        tuple(
            GroupBox(group.name, group.size, tuple(dict.fromkeys(producers_of(group, axes))))
            for group in groups
        ),
        tuple(
            FrozenBox(item.parameter, item.count, item.reason)
            for item in found.frozen
            if axes.get(item.parameter) == item.axis
        ),
    )
