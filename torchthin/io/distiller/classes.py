"""Distiller's pruner classes in this package's words: a table by class name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torchthin.config import ONE_SHOT, Distiller, PruneConfig, Ratio, Schedule, Target, Unstructured
from torchthin.errors import ConfigError

_FILTERS, _CHANNELS = ("Filters", "3D"), ("Channels",)


@dataclass(frozen=True)
class Kind:
    """What a pruner class does."""

    gradual: bool
    """Whether its sparsity grows by AGP."""
    norm: str | None = None
    """What ranks whole filters: l1 or l2. None: single weights."""
    keys: tuple[str, ...] = ()
    """Its arguments that are understood."""


_GRADUAL = ("class", "initial_sparsity", "final_sparsity", "weights")
_AT_ONCE = ("class", "desired_sparsity", "weights")
CLASSES: dict[str, Kind] = {
    "AutomatedGradualPruner": Kind(True, None, _GRADUAL),
    "L1RankedStructureParameterPruner_AGP": Kind(True, "l1", (*_GRADUAL, "group_type")),
    "L2RankedStructureParameterPruner_AGP": Kind(True, "l2", (*_GRADUAL, "group_type")),
    "L1RankedStructureParameterPruner": Kind(False, "l1", (*_AT_ONCE, "group_type")),
    "L2RankedStructureParameterPruner": Kind(False, "l2", (*_AT_ONCE, "group_type")),
    "SparsityLevelParameterPruner": Kind(False, None, ("class", "levels")),
}
"""Classes that are taken over."""


@dataclass(frozen=True)
class Choice:
    """A pruner of the file, understood."""

    gradual: bool
    method: str
    initial: float
    final: float
    weights: tuple[str, ...]
    criterion: str | None = None
    compat: str | None = None

    def config(self, steps: int) -> PruneConfig:
        """Return the configuration for a pruner that fires `steps` times after the first."""
        if self.compat == "distiller":
            target: Target = Distiller(self.method, self.final, steps)
        elif self.method == "agp-unstructured":
            target = Unstructured(self.final)
        else:
            target = Ratio(self.final)
        schedule = Schedule(steps=steps) if self.method.startswith("agp") else ONE_SHOT
        return PruneConfig(target, self.criterion, self.weights, schedule=schedule, thin=False)


def chosen(name: str, given: Mapping[Any, Any]) -> tuple[Choice | None, list[str]]:
    """Return what the pruner `name` of a schedule stands for (None: nothing here does that), and what is left out.

    Raises:
        ConfigError: a value is missing or out of range.
    """
    where = f"pruners: {name}"
    kind = CLASSES.get(str(given.get("class")))
    if kind is None:
        return None, [f"{where}: the class {given.get('class')} is not taken over."]
    if given.get("group_type", "Filters") not in (*_FILTERS, *_CHANNELS):
        return None, [f"{where}: the group_type {given['group_type']} is not taken over."]
    initial, final, weights, notes = _amounts(where, kind, given)
    if final is None:
        return None, notes
    notes += [f"{where}: {_reason(key, given[key])}." for key in given if key not in kind.keys]
    if any(weight.startswith("module.") for weight in weights):
        weights = [weight.removeprefix("module.") for weight in weights]
        notes.append(f"{where}: the module. before its weights is left out.")
    method, criterion, compat = _method(kind, given.get("group_type"))
    if kind.norm == "l2" and compat is not None:
        return None, [*notes, f"{where}: channels by their L2 norm are not taken over."]
    if compat is not None:
        notes.append(
            f"{where}: input channels are masked as Distiller does, each weight alone (compat=distiller)."
        )
    return Choice(kind.gradual, method, initial, final, tuple(weights), criterion, compat), notes


def _reason(key: Any, value: Any) -> str:
    if key == "group_dependency":
        return f"{key} {value} is not taken over; layers that are coupled share a decision by themselves"
    return f"{key} is not taken over"


def _method(kind: Kind, group_type: Any) -> tuple[str, str | None, str | None]:
    """Return method, criterion and compat."""
    if kind.norm is None:
        return "agp-unstructured", None, None
    if group_type in _CHANNELS:  # at its last epoch AGP does what the plain pruner does
        return "l1-channels", None, "distiller"
    return "agp-structured" if kind.gradual else "l1-structured", "l2" if kind.norm == "l2" else None, None


def _amounts(
    where: str, kind: Kind, given: Mapping[Any, Any]
) -> tuple[float, float | None, list[str], list[str]]:
    """Return initial and final sparsity (None: not one for all), the weights, and notes."""
    if "levels" in kind.keys:
        return _levels(where, given.get("levels"))
    weights = given.get("weights")
    weights = [weights] if isinstance(weights, str) else weights
    if not isinstance(weights, list) or not weights or not all(isinstance(each, str) for each in weights):
        raise ConfigError(
            f"The weights of {where} must be a list of names. Got {weights!r}. Mend the schedule."
        )
    if not kind.gradual:
        final = _share(where, given, "desired_sparsity")
        return final, final, weights, []
    initial, final = _share(where, given, "initial_sparsity"), _share(where, given, "final_sparsity")
    if not initial < final:
        raise ConfigError(
            f"The initial_sparsity of {where} must be below its final_sparsity. Got {initial:g} and {final:g}."
        )
    return initial, final, weights, []


def _levels(where: str, levels: Any) -> tuple[float, float | None, list[str], list[str]]:
    if not isinstance(levels, dict) or not levels:
        raise ConfigError(f"The levels of {where} must map weights to sparsities. Got {levels!r}.")
    shares = {str(weight): _share(where, levels, weight) for weight in levels}
    pruned = {weight: value for weight, value in shares.items() if value > 0}
    if "*" in pruned or len(set(pruned.values())) != 1:
        return 0.0, None, [], [f"{where}: levels that differ, or are for '*', are not taken over."]
    value = next(iter(pruned.values()))
    return value, value, list(pruned), []


def _share(where: str, given: Mapping[Any, Any], key: str) -> float:
    value = given.get(key)
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise ConfigError(f"The {key} of {where} must be in [0, 1). Got {value!r}. Mend the schedule.")
    return float(value)
