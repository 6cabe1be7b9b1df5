"""Names, patterns and modules that a caller gives, and the parameters that they stand for; what cannot be pruned is refused."""

from __future__ import annotations

from collections.abc import Container, Iterable
from fnmatch import fnmatchcase

from torch import nn

from torchthin.errors import WeightNameError, near_matches
from torchthin.selection.weight_entries import Entry, is_convolution, is_layer_weight, is_torch_layer, why_not


def named_entries(
    entries: list[Entry], names: Iterable[str], unmaskable: dict[str, str], structured: bool
) -> list[Entry]:
    """Return the entries the caller asked for, or raise."""
    known = {entry.names[0]: entry for entry in entries}
    chosen = []
    for name in names:
        if name not in known and is_several(name, entries):
            chosen += _matching(entries, name, structured)
            continue
        if name in unmaskable:
            raise WeightNameError(f"The weight {name} cannot be pruned: {unmaskable[name]}")
        if name not in known:
            raise _unknown(name, entries, structured)
        reason = why_not(known[name], structured)
        if reason is not None:
            raise _refusal(known[name], structured, reason)
        chosen.append(known[name])
    return chosen


def is_several(name: str, entries: Iterable[Entry]) -> bool:
    """Whether a name that a caller gives is a pattern or a module, which stand for all weights that they match or hold."""
    return any(sign in name for sign in "*?[") or any(
        entry.names[0].startswith(f"{name}.") for entry in entries
    )


def usable_layers(entries: Iterable[Entry], structured: bool) -> list[Entry]:
    """Return the weights of convolutions, linear layers and those inside of other modules that can be pruned."""
    return [
        e
        for e in entries
        if (is_convolution(e) or is_layer_weight(e, nn.Linear) or e.inner) and why_not(e, structured) is None
    ]


def _matching(entries: list[Entry], pattern: str, structured: bool) -> list[Entry]:
    """Return the weights of convolutions and linear layers that a pattern or a module's name stands for, or raise."""
    usable = usable_layers(entries, structured)
    found = [entry for entry in usable if _matches(pattern, entry.names[0])]
    found = found or of_own_classes(entries, pattern, structured)
    if not found and not any(sign in pattern for sign in "*?["):
        raise _unknown(pattern, entries, structured)
    if not found:
        raise WeightNameError(
            f"The pattern {pattern!r} matches none of the {len(usable)} weights that can be pruned."
            f"{near_matches(pattern, [entry.names[0] for entry in usable])}"
        )
    return found


def of_own_classes(entries: list[Entry], pattern: str, structured: bool) -> list[Entry]:
    """Return matching weights of layers that are written by hand; asked for where no other layer matches."""
    return [
        entry
        for entry in entries
        if entry.local == "weight"
        and _matches(pattern, entry.names[0])
        and not is_torch_layer(entry.owner)
        and why_not(entry, structured) is None
    ]


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches the weight or any module that holds it."""
    return any(_matches(pattern, name) for pattern in patterns)


def _matches(pattern: str, name: str) -> bool:
    """Whether `pattern` matches the weight or any module that holds it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def excluded_by(
    entries: list[Entry], patterns: Iterable[str], targets: Container[int]
) -> tuple[set[int], set[str]]:
    """Return the ids of the parameters that the patterns exclude, and the names to report; one that matches nothing raises.

    A pattern that matches targets is reported by these, another one (a norm, an embedding) by all that it matches.
    """
    excluded: set[int] = set()
    reported: set[str] = set()
    for pattern in patterns:
        found = {
            id(entry.parameter) for entry in entries if any(_matches(pattern, name) for name in entry.names)
        }
        if not found:
            names = [entry.name for entry in entries]
            modules = [name.rsplit(".", 1)[0] for name in names if "." in name]
            raise WeightNameError(
                f"The exclude pattern (--keep) {pattern!r} matches no weight or module of the model."
                f"{near_matches(pattern, dict.fromkeys(modules + names))}"
            )
        excluded |= found
        named = {key for key in found if key in targets} or found
        reported |= {entry.name for entry in entries if id(entry.parameter) in named}
    return excluded, reported


def _refusal(entry: Entry, structured: bool, reason: str) -> WeightNameError:
    allowed = (
        "weights of convolutions, linear layers and hand-made layers of 2 and more axes"
        if structured
        else "weights of 2 and more axes"
    )
    kind = "a structured" if structured else "an unstructured"
    return WeightNameError(
        f"The weight {entry.name} cannot be pruned by {kind} method: {reason}. "
        f"Allowed are floating-point {allowed}."
    )


def _unknown(name: str, entries: list[Entry], structured: bool) -> WeightNameError:
    own = [entry.names[0] for entry in entries if entry.names[0].startswith(f"{name}.")]
    good = [entry.names[0] for entry in entries if why_not(entry, structured) is None]
    if own:
        listed = f"{', '.join(own[:4])}{', ...' if len(own) > 4 else ''}"
        hint = f" It is a module that holds none to prune; its parameters are {listed}."
    else:
        hint = near_matches(name, good) or (f" The first ones are {', '.join(good[:4])}." if good else "")
    return WeightNameError(f"The model has no weight {name!r}.{hint}")
