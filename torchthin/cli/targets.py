"""Options -> `PruneConfig`: which target a method, a budget or a chip means, and what does not go together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torchthin.cli.flags_from_fields import Flag, flags_of
from torchthin.config import (
    DISTILLER_METHODS,
    NM,
    ONE_SHOT,
    Budget,
    Distiller,
    PruneConfig,
    Ratio,
    Schedule,
    Target,
    Unstructured,
    option,
)
from torchthin.errors import ConfigError, near_matches
from torchthin.max7800x.target import Chip


@dataclass(frozen=True)
class Method:
    """What ``--method`` means."""

    description: str
    """One line for lists and help texts."""
    target: type[Target]
    gradual: bool = False
    """Whether the sparsity grows by AGP."""


METHODS: dict[str, Method] = {
    "agp-structured": Method("whole channels of least mean |w|, sparsity grown by AGP", Ratio, True),
    "l1-structured": Method("whole channels of least mean |w|, at once", Ratio),
    "agp-unstructured": Method("single weights of least |w|, sparsity grown by AGP", Unstructured, True),
    "nm-unstructured": Method("all but n of every m neighbouring weights, at once", NM),
}
DEFAULT_METHOD = "agp-structured"
_BUDGETS = {"target_macs", "target_params", "target_latency"}
"""Keys of which one makes a budget of a ratio."""
TARGETS: tuple[type[Target], ...] = (Ratio, Budget, Unstructured, NM, Distiller, Chip)


@dataclass(frozen=True)
class MethodArgs:
    """Options that choose the target; no target has them as fields."""

    method: str = option(
        DEFAULT_METHOD, "--method", f"one of {', '.join(METHODS)} (default: {DEFAULT_METHOD})"
    )
    pattern: str | None = option(
        None,
        "--pattern",
        "with nm-unstructured: n of every m neighbouring weights along the input dimension are kept (default: 2:4)",
        "N:M",
    )
    compat: str | None = option(
        None, "--compat", "distiller: the masks that Distiller makes, bit for bit", "TOOL"
    )


@cache
def target_flags() -> Mapping[str, Flag]:
    """Return the options of all targets: key -> flag, of the first target that has it."""
    found: dict[str, Flag] = {}
    for kind in TARGETS:
        found = {**found, **{key: flag for key, flag in flags_of(kind).items() if key not in found}}
    return found


@cache
def prune_flags() -> Mapping[str, Flag]:
    """Return all options that say how to prune: key -> flag."""
    return {**flags_of(MethodArgs), **target_flags(), **flags_of(PruneConfig)}


@cache
def chip_flags() -> Mapping[str, Flag]:
    """Return those of `prune_flags` that only a chip takes."""
    others = {*flags_of(Ratio), *flags_of(Budget)}
    return {key: flag for key, flag in flags_of(Chip).items() if key not in others}


def prune_config(given: Mapping[str, Any]) -> PruneConfig:
    """Return what options ask for.

    Args:
        given: key -> value, as flags or a configuration file give them; what is missing or None has its default.

    Raises:
        ConfigError: a value is wrong, or options do not go together.
    """
    given = {key: value for key, value in given.items() if value is not None}
    method, kind = _kind(given)
    common = {flag.item.name: given[key] for key, flag in flags_of(PruneConfig).items() if key in given}
    common.setdefault("thin", False)
    _refuse_misplaced(given, method, kind)
    chosen = {flag.item.name: given[key] for key, flag in flags_of(kind).items() if key in given}
    if kind is Distiller:
        return PruneConfig(Distiller(method, **chosen), **common)
    if not isinstance(chosen.get("allocation", "auto"), str):
        raise ConfigError(
            "The allocation (--allocation) must be 'auto', 'outputs' or a file of torchthin sensitivity. "
            f"Got {chosen['allocation']!r}."
        )
    if "ratio" in given and "target_sparsity" in given:
        raise ConfigError(
            "The option --target-sparsity does not go with --ratio, which says the share of every kind. Leave one out."
        )
    target = _nm(given) if kind is NM else kind(**chosen)
    if isinstance(target, Chip) and not target.limits and not target.fit:
        raise ConfigError(
            f"The chip (--chip) needs a target: --target-cycles, --target-kernel-words or --fit. Got {target.name} alone."
        )
    steps = {"steps": given["agp_steps"]} if "agp_steps" in given else {}
    schedule = Schedule(**steps)  # checked also where the method is at once
    return PruneConfig(target, **common, schedule=schedule if METHODS[method].gradual else ONE_SHOT)


def _kind(given: Mapping[str, Any]) -> tuple[str, type[Target]]:
    """Return the method, and the target that it means together with the other options."""
    method, compat = given.get("method", DEFAULT_METHOD), given.get("compat")
    if compat not in (None, "distiller"):
        raise ConfigError(f"The compat (--compat) must be 'distiller' or left out. Got {compat!r}.")
    known: Iterable[str] = METHODS
    if compat is not None or "backend" in given:
        own = [name for name, item in DISTILLER_METHODS.items() if item.backend]
        known = own if "backend" in given else DISTILLER_METHODS
    if not isinstance(method, str) or method not in known:
        hint = near_matches(method, known) if isinstance(method, str) else ""
        if known is METHODS and isinstance(method, str) and method in DISTILLER_METHODS:
            hint = " It is there with --compat distiller."
        where = (
            " with --backend" if "backend" in given else "" if compat is None else " with --compat distiller"
        )
        raise ConfigError(
            f"The method (--method) must be one of {', '.join(known)}{where}. Got {method!r}.{hint}"
        )
    if known is not METHODS:
        return method, Distiller
    kind = METHODS[method].target
    if kind is Ratio and "chip" in given:
        return method, Chip
    if kind is Ratio and not given.keys().isdisjoint(_BUDGETS):
        return method, Budget
    return method, kind


def _refuse_misplaced(given: Mapping[str, Any], method: str, kind: type[Target]) -> None:
    """Refuse options of another target than the one that is asked for."""
    allowed = {*flags_of(kind), "agp_steps", *(("pattern", "target_sparsity") if kind is NM else ())}
    for key, flag in target_flags().items():
        usual = (flag.item.default, 1) if key == "round_to" else (flag.item.default,)
        asked = key in given and (key == "chip" or given[key] not in usual)
        if asked and key not in allowed:
            raise ConfigError(_misplaced(flag, method, kind))
    if "pattern" in given and kind is not NM:
        raise ConfigError(
            f"The option --pattern does not go with --method {method}; nm-unstructured takes one."
        )


def _misplaced(flag: Flag, method: str, kind: type[Target]) -> str:
    names = {Chip: "a chip", Budget: "a budget", Distiller: "--compat distiller"}
    sizes = {*_BUDGETS, "latency_cache", *chip_flags()}
    hint = ""
    if kind is Chip and flag.key == "round_to":
        hint = " The chip's own widths decide there."
    elif kind in (Unstructured, NM) and flag.key in sizes:
        hint = " Zeros in single weights make no model smaller."
    elif kind is Ratio and flag.key in chip_flags():
        hint = " Give --chip as well."
    elif kind is Ratio and flag.key == "allocation":
        hint = " Give the budget to spread, --target-macs or --target-params."
    elif kind is Ratio and flag.key == "latency_cache":
        hint = " Give --target-latency as well."
    taken: Iterable[str] = (each.name for each in flags_of(kind).values())
    if kind is NM:
        taken = ("--pattern",)
    what = names.get(kind, f"--method {method}")
    return f"The option {flag.name} does not go with {what}, which takes {', '.join(taken)}.{hint}"


def _nm(given: Mapping[str, Any]) -> NM:
    """Return the target of nm-unstructured."""
    pattern = given.get("pattern", "2:4")
    found = re.fullmatch(r"(\d+):(\d+)", pattern) if isinstance(pattern, str) else None
    if found is None or not 1 <= int(found[1]) < int(found[2]):
        raise ConfigError(
            f"The pattern (--pattern) must be n:m, n of every m weights that are kept, with 1 <= n < m. Got {pattern!r}."
        )
    target = NM(int(found[1]), int(found[2]))
    share = given.get("target_sparsity", target.share)
    if share != target.share:
        raise ConfigError(
            f"The option --target-sparsity must be {target.share:g} with the pattern {pattern}. Got {share!r}."
        )
    return target
