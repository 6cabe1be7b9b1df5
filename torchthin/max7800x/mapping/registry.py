"""The registry of mapping rules, and what a rule is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torchthin.graph.opgraph import Op, OpGraph, Ref
from torchthin.max7800x.ai8x.settings import ModuleSettings
from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.mapping.feature_map import FeatureMap, HostTensor
from torchthin.max7800x.mapping.layer_builder import LayerBuilder, Unmappable

Tracked = FeatureMap | HostTensor


@dataclass(frozen=True)
class Call:
    """One recorded operator, with what is known of its inputs."""

    op: Op
    builder: LayerBuilder
    chip: ChipSpec
    settings: ModuleSettings
    known: Mapping[int, Tracked]
    """By value number; other values do not depend on the model's input."""
    graph: OpGraph

    @property
    def module(self) -> str:
        """Path of the module that called the operator, empty for the model itself."""
        return self.op.source.module

    @property
    def path(self) -> str:
        """The same for messages."""
        return self.module or "forward"

    def argument(self, name: str, default: Any = None) -> Any:
        """Return an argument that is no feature map."""
        return self.op.arguments.get(name, default)

    def is_map(self, name: str) -> bool:
        """Whether the argument depends on the model's input."""
        ref = self.op.arguments.get(name)
        return isinstance(ref, Ref) and ref.value in self.known

    def shape(self, argument: Any) -> tuple[int, ...]:
        """Return the shape of a tensor argument; () for a number."""
        return self.graph.values[argument.value].shape if isinstance(argument, Ref) else ()

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.shape(self.op.outputs[0])

    def features(self, argument: Any) -> FeatureMap:
        """Return what is known of a tensor. One that the chip does not compute is reported; the operator before it is left out.

        Raises:
            UnknownForm: nothing is known of its form.
        """
        found = self.known[argument.value]
        if isinstance(found, FeatureMap):
            return found
        self.builder.report(found.reason)
        if found.like is None:
            raise UnknownForm(found.reason)
        return found.like


class UnknownForm(Exception):
    """A layer follows an operator that the chip cannot do, and its input has no known form; the message is the reason."""


Rule = Callable[[Call], FeatureMap]
_RULES: dict[str, Rule] = {}
_CONTRACTIONS: set[str] = set()


def maps(*names: str, contraction: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for operators (``aten.relu``). It returns the feature map of the first result.

    Args:
        names: of the operators, without overload.
        contraction: the operator makes a layer of its own; all that it reads must map.

    Raises:
        ValueError: there is a rule for a name.
    """

    def register(rule: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"There is a mapping rule for {name} already.")
            _RULES[name] = rule
            if contraction:
                _CONTRACTIONS.add(name)
        return rule

    return register


def apply_rule(call: Call) -> Tracked:
    """Return what the operator's first result is."""
    tracked = [call.known[value] for value in call.op.reads if value in call.known]
    name = call.op.name
    contracts = name in _CONTRACTIONS
    lost = next((one for one in tracked if isinstance(one, HostTensor)), None)
    if lost is not None and not contracts:
        return HostTensor(lost.reason, inputs_of(tracked), _like(call, lost.like))
    try:
        if name not in _RULES:
            raise Unmappable("the chip has no such operation")
        return _RULES[name](call)
    except Unmappable as error:
        reason = f"{call.path}: {name.removeprefix('aten.')}, {error}"
        like = next((one for one in tracked if isinstance(one, FeatureMap)), None)
        if contracts:
            call.builder.report(reason)
        return HostTensor(reason, inputs_of(tracked), _like(call, like))
    except UnknownForm as error:
        return HostTensor(str(error), inputs_of(tracked))


def inputs_of(tracked: Sequence[Tracked]) -> tuple[FeatureMap, ...]:
    """Return the maps on the chip that values are, or are computed from, each once."""
    found = [one.inputs if isinstance(one, HostTensor) else (one,) for one in tracked]
    return tuple(dict.fromkeys(features for group in found for features in group))


def _like(call: Call, like: FeatureMap | None) -> FeatureMap | None:
    """Return what the result would be, if the operator left its input as it is: when the shapes allow that."""
    if like is None or like.flat:
        return None
    rank = len(call.out_shape)
    expected = (like.channels, *like.pooled)[: rank - 1] if rank in (3, 4) else (like.channels,)
    same = call.out_shape[1:] == expected and (rank > 2 or like.pooled == (1, 1))
    return replace(like, negated=False) if same else None
