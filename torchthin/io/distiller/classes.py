"""Distiller's pruner classes in this package's words: a table by class name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from torchthin.config import ONE_SHOT, Distiller, PruneConfig, Ratio, Schedule, Target, Unstructured
from torchthin.errors import ConfigError

_FILTERS, _CHANNELS = ("Filters", "3D"), ("Channels",)


@dataclass(frozen=True)
class PrunerClass:
    """What a pruner class does."""

    gradual: bool
    """Whether its sparsity grows by AGP."""
    norm: str | None
    """What ranks whole filters: l1 or l2. None: single weights."""
    keys: tuple[str, ...]
    """Its arguments that are understood."""


_GRADUAL = ("class", "initial_sparsity", "final_sparsity", "weights")
_AT_ONCE = ("class", "desired_sparsity", "weights")
CLASSES: dict[str, PrunerClass] = {
    "AutomatedGradualPruner": PrunerClass(True, None, _GRADUAL),
    "L1RankedStructureParameterPruner_AGP": PrunerClass(True, "l1", (*_GRADUAL, "group_type")),
    "L2RankedStructureParameterPruner_AGP": PrunerClass(True, "l2", (*_GRADUAL, "group_type")),
    "L1RankedStructureParameterPruner": PrunerClass(False, "l1", (*_AT_ONCE, "group_type")),
    "L2RankedStructureParameterPruner": PrunerClass(False, "l2", (*_AT_ONCE, "group_type")),
    "SparsityLevelParameterPruner": PrunerClass(False, None, ("class", "levels")),
}
"""Classes that are supported."""


@dataclass(frozen=True)
class PrunerChoice:
    """A pruner of the file, understood."""

    gradual: bool
    initial: float
    """Sparsity at the first event."""
    target: Target
    weights: tuple[str, ...]
    criterion: str | None = None

    def config(self, steps: int) -> PruneConfig:
        """Return the configuration for a pruner that fires `steps` times after the first."""
        target = self.target
        if isinstance(target, Distiller):
            target = replace(target, agp_steps=steps)
        schedule = Schedule(steps=steps) if self.gradual else ONE_SHOT
        return PruneConfig(target, self.criterion, self.weights, schedule=schedule, thin=False)


def choice_of(name: str, given: Mapping[Any, Any]) -> tuple[PrunerChoice | None, list[str]]:
    """Return what the pruner `name` of a schedule stands for (None: it is not supported), and what is ignored.

    Raises:
        ConfigError: a value is missing or out of range.
    """
    where = f"pruners: {name}"
    kind, group_type = CLASSES.get(str(given.get("class"))), given.get("group_type", "Filters")
    if kind is None:
        return None, [f"{where}: the class {given.get('class')} is not supported."]
    if group_type not in (*_FILTERS, *_CHANNELS):
        return None, [f"{where}: the group_type {group_type} is not supported."]
    initial, final, weights = _levels(where, given) if "levels" in kind.keys else _range(where, kind, given)
    if final is None:
        return None, [f"{where}: levels that differ, or are for '*', are not supported."]
    notes = [f"{where}: {_reason(key, given[key])}." for key in given if key not in kind.keys]
    if any(weight.startswith("module.") for weight in weights):
        weights = [weight.removeprefix("module.") for weight in weights]
        notes.append(f"{where}: the module. before its weights is left out.")
    if kind.norm is None:
        return PrunerChoice(kind.gradual, initial, Unstructured(final), tuple(weights)), notes
    if group_type in _FILTERS:
        criterion = "l2" if kind.norm == "l2" else None
        return PrunerChoice(kind.gradual, initial, Ratio(final), tuple(weights), criterion), notes
    if kind.norm == "l2":
        return None, [*notes, f"{where}: channels by their L2 norm are not supported."]
    notes.append(
        f"{where}: input channels are masked as Distiller does, each weight alone (compat=distiller)."
    )
    target = Distiller("l1-channels", final)  # at its last epoch AGP does what the plain pruner does
    return PrunerChoice(kind.gradual, initial, target, tuple(weights)), notes


def _reason(key: Any, value: Any) -> str:
    if key == "group_dependency":
        return f"{key} {value} is ignored; coupled layers always share a decision"
    return f"{key} is ignored"


def _range(where: str, kind: PrunerClass, given: Mapping[Any, Any]) -> tuple[float, float | None, list[str]]:
    """Return initial sparsity, final sparsity and the weights."""
    weights = given.get("weights")
    weights = [weights] if isinstance(weights, str) else weights
    if not isinstance(weights, list) or not weights or not all(isinstance(each, str) for each in weights):
        raise ConfigError(
            f"The weights of {where} must be a list of names. Got {weights!r}. Correct the schedule."
        )
    if not kind.gradual:
        final = _share(where, given, "desired_sparsity")
        return final, final, weights
    initial, final = _share(where, given, "initial_sparsity"), _share(where, given, "final_sparsity")
    if not initial < final:
        raise ConfigError(
            f"The initial_sparsity of {where} must be below its final_sparsity. Got {initial:g} and {final:g}."
        )
    return initial, final, weights


def _levels(where: str, given: Mapping[Any, Any]) -> tuple[float, float | None, list[str]]:
    """Return twice the sparsity of all weights, None if it is not one for all, and the weights."""
    levels = given.get("levels")
    if not isinstance(levels, dict) or not levels:
        raise ConfigError(f"The levels of {where} must map weights to sparsities. Got {levels!r}.")
    shares = {str(weight): _share(where, levels, weight) for weight in levels}
    pruned = {weight: value for weight, value in shares.items() if value > 0}
    if "*" in pruned or len(set(pruned.values())) != 1:
        return 0.0, None, []
    value = next(iter(pruned.values()))
    return value, value, list(pruned)


def _share(where: str, given: Mapping[Any, Any], key: str) -> float:
    value = given.get(key)
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise ConfigError(f"The {key} of {where} must be in [0, 1). Got {value!r}. Correct the schedule.")
    return float(value)
