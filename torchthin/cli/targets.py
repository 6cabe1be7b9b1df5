"""Options -> `PruneConfig`: which target a method, a budget or a chip means, and what does not go together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

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
    key_of,
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
KINDS: tuple[type[Target], ...] = (Ratio, Budget, Unstructured, NM, Distiller, Chip)
_SPECIAL = ("method", "compat", "pattern")


def options_of(kind: Any) -> dict[str, Field[Any]]:
    """Return the options that a target or `PruneConfig` has: key -> field."""
    return {key_of(item): item for item in fields(kind) if "flag" in item.metadata}


def target_options() -> dict[str, Field[Any]]:
    """Return the options of all targets: key -> the first field of that key."""
    found: dict[str, Field[Any]] = {}
    for kind in KINDS:
        found = {**options_of(kind), **found}
    return found


def prune_keys() -> tuple[str, ...]:
    """Return the keys of all options that say how to prune."""
    return (*_SPECIAL, *target_options(), *options_of(PruneConfig))


def prune_config(given: Mapping[str, Any]) -> PruneConfig:
    """Return what options ask for.

    Args:
        given: key -> value, as flags or a configuration file give them; what is missing or None has its default.

    Raises:
        ConfigError: a value is wrong, or options do not go together.
    """
    given = {key: value for key, value in given.items() if value is not None}
    method, kind = _kind(given)
    own = options_of(kind)
    common = {item.name: given[key] for key, item in options_of(PruneConfig).items() if key in given}
    common.setdefault("thin", False)
    _refuse_misplaced(given, kind, method, own)
    chosen = {item.name: given[key] for key, item in own.items() if key in given}
    if kind is Distiller:
        return PruneConfig(Distiller(method, **chosen), **common)
    target = _nm(given) if kind is NM else kind(**chosen)
    steps = {"steps": given["agp_steps"]} if "agp_steps" in given else {}
    schedule = Schedule(**steps)  # checked also where the method is at once
    return PruneConfig(target, **common, schedule=schedule if METHODS[method].gradual else ONE_SHOT)


def _kind(given: Mapping[str, Any]) -> tuple[str, type[Target]]:
    """Return the method and the target that it stands for with what else is given."""
    method, compat = given.get("method", DEFAULT_METHOD), given.get("compat")
    if compat not in (None, "distiller"):
        raise ConfigError(f"The compat (--compat) must be 'distiller' or left out. Got {compat!r}.")
    if compat is not None or "backend" in given:
        if method in METHODS and method not in DISTILLER_METHODS:
            raise ConfigError(
                f"The method (--method) must be one of Distiller's with --compat distiller: {', '.join(DISTILLER_METHODS)}. "
                f"Got {method!r}."
            )
        return str(method), Distiller
    if not isinstance(method, str) or method not in METHODS:
        hint = near_matches(method, METHODS) if isinstance(method, str) else ""
        hint = " It is there with --compat distiller." if method in DISTILLER_METHODS else hint
        raise ConfigError(f"The method (--method) must be one of {', '.join(METHODS)}. Got {method!r}.{hint}")
    kind = METHODS[method].target
    if kind is Ratio and "chip" in given:
        return method, Chip
    if kind is Ratio and ("target_macs" in given or "target_params" in given):
        return method, Budget
    return method, kind


def _refuse_misplaced(
    given: Mapping[str, Any], kind: type[Target], method: str, own: Mapping[str, Field[Any]]
) -> None:
    """Refuse options of another target than the one that is asked for."""
    allowed = {*own, "agp_steps", *(("pattern", "target_sparsity") if kind is NM else ())}
    for key, item in target_options().items():
        if key in given and key not in allowed and given[key] != item.default:
            raise ConfigError(_misplaced(key, kind, method, own))
    if "pattern" in given and kind is not NM:
        raise ConfigError(
            f"The option --pattern does not go with --method {method}; nm-unstructured takes one."
        )


def _misplaced(key: str, kind: type[Target], method: str, own: Iterable[str]) -> str:
    names = {Chip: "a chip", Budget: "a budget", Distiller: "--compat distiller"}
    what = names.get(kind, f"--method {method}")
    hints = {
        Chip: " The chip's own widths decide there.",
        Unstructured: " Zeros in single weights make no model smaller.",
        NM: " Zeros in single weights make no model smaller.",
    }
    if key in options_of(Chip) and kind is not Chip:
        hint = " Give --chip as well." if kind is Ratio else hints.get(kind, "")
    elif key == "allocation" and kind is Ratio:
        hint = " Give the budget to spread, --target-macs or --target-params."
    else:
        hint = hints.get(kind, "")
    taken = ", ".join(f"--{name.replace('_', '-')}" for name in own)
    return f"The option --{key.replace('_', '-')} does not go with {what}, which takes {taken}.{hint}"


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
