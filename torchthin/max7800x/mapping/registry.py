"""The registry of mapping rules, and what a rule is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torchthin.graph.opgraph import Op, Ref, Value
from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.mapping.feature_map import Features, Outside
from torchthin.max7800x.mapping.layer_builder import Draft, Unmappable
from torchthin.max7800x.mapping.module_settings import Scopes

Tracked = Features | Outside


@dataclass(frozen=True)
class Call:
    """One recorded operator, with what is known of its inputs."""

    op: Op
    draft: Draft
    chip: Chip
    scopes: Scopes
    known: Mapping[int, Tracked]
    """Features by value number; what is not there does not depend on the model's input."""
    values: tuple[Value, ...]
    parameters: Mapping[int, str]
    """The parameter that a value is computed from, where there is exactly one of its shape."""

    @property
    def path(self) -> str:
        """Path of the module that called the operator."""
        return self.op.source.module or "forward"

    def argument(self, name: str, default: Any = None) -> Any:
        """Return an argument that is no feature map."""
        return self.op.arguments.get(name, default)

    def is_map(self, name: str) -> bool:
        """Whether the argument depends on the model's input."""
        ref = self.op.arguments.get(name)
        return isinstance(ref, Ref) and ref.value in self.known

    def shape(self, argument: Any) -> tuple[int, ...]:
        """Return the shape of a tensor argument; () for a number."""
        return self.values[argument.value].shape if isinstance(argument, Ref) else ()

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.shape(self.op.outputs[0])

    def features(self, argument: Any) -> Features:
        """Return what is known of a tensor. One that the chip does not compute is reported and taken as it would be without.

        Raises:
            Blocked: nothing is known of its form.
        """
        found = self.known[argument.value]
        if isinstance(found, Features):
            return found
        self.draft.report(found.reason)
        if found.like is None:
            raise Blocked(found)
        return found.like

    def tracked(self) -> list[Tracked]:
        """Return what is known of all inputs that depend on the model's input."""
        return [self.known[ref.value] for ref in self.op.inputs() if ref.value in self.known]


class Blocked(Exception):
    """A layer stands behind an operator that the chip cannot do, and its input has no known form."""

    def __init__(self, outside: Outside) -> None:
        super().__init__(outside.reason)
        self.outside = outside


Rule = Callable[[Call], Features]
_RULES: dict[str, Rule] = {}
_CONTRACTIONS: set[str] = set()


def maps(*names: str, contraction: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for operators (``aten.relu``). It returns the features of the first result.

    Args:
        names: of the operators, without overload.
        contraction: the operator makes a layer of its own; whatever stands in front of it must map.

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
    """Return what becomes of the operator's first result."""
    tracked = call.tracked()
    name = call.op.name
    rule = _RULES.get(name)
    lost = next((one for one in tracked if isinstance(one, Outside)), None)
    if lost is not None and name not in _CONTRACTIONS:
        return Outside(lost.reason, _behind(tracked), _like(call, lost.like))
    try:
        if rule is None:
            raise Unmappable("the chip has no such operation")
        return rule(call)
    except Unmappable as error:
        reason = f"{call.path}: {name.removeprefix('aten.')}, {error}"
        like = next((one for one in tracked if isinstance(one, Features)), None)
        if name in _CONTRACTIONS:
            call.draft.report(reason)
        return Outside(reason, _behind(tracked), _like(call, like))
    except Blocked as error:
        return Outside(error.outside.reason, _behind(tracked))


def _behind(tracked: list[Tracked]) -> tuple[Features, ...]:
    found = [one.behind if isinstance(one, Outside) else (one,) for one in tracked]
    return tuple(dict.fromkeys(features for group in found for features in group))


def _like(call: Call, like: Features | None) -> Features | None:
    """Return what the result would be, if the operator left its input as it is: when the shapes allow that."""
    if like is None or like.flat:
        return None
    rank = len(call.out_shape)
    expected = (like.channels, *like.pooled)[: rank - 1] if rank in (3, 4) else (like.channels,)
    same = call.out_shape[1:] == expected and (rank > 2 or like.pooled == (1, 1))
    return replace(like, negated=False) if same else None
