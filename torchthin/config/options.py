"""Fields that are options of the command line too, the checks that option objects share, and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, NoReturn

from torchthin.errors import ConfigError

_LONGEST = 200
"""Characters of a value that a message shows."""
MOST_STEPS = 100_000
"""In which masks can grow: the sparsity after each is computed beforehand, and stands in the report."""


def option(default: Any, flag: str, help: str, metavar: str | None = None) -> Any:
    """Return a dataclass field that is also an option of the command line.

    Args:
        default: of the field; the command line has the same.
        flag: such as ``--round-to``; its name without dashes is the key in configuration files.
        help: one line; shown by ``--help`` and in the JSON Schema.
        metavar: what ``--help`` shows for the value.
    """
    return field(default=default, metadata={"flag": flag, "help": help, "metavar": metavar})


def key_of(item: Field[Any]) -> str:
    """Return the key in configuration files of a field made by `option`: ``no_recover`` would be ``recover: false``."""
    flag: str = item.metadata["flag"]
    return flag.lstrip("-").removeprefix("no-").replace("-", "_")


def options_of(kind: Any) -> Iterator[Field[Any]]:
    """Yield the fields of an options object that are made by `option`."""
    return (item for item in fields(kind) if "flag" in item.metadata)


def shown(value: object) -> str:
    """Return a value as a message shows it: a tensor or an array by its type and shape, anything long by its type."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"a {type(value).__name__}"


def refuse(owner: object, name: str, allowed: str, value: object, hint: str = "") -> NoReturn:
    """Raise the `ConfigError` that says what a field of an options object must be, with the field's flag if it has one."""
    flags = {item.name: item.metadata["flag"] for item in options_of(owner)}
    flag = f" ({flags[name]})" if name in flags else ""
    raise ConfigError(
        f"The {name} of {type(owner).__name__}{flag} must be {allowed}. Got {shown(value)}.{hint}"
    )


def check_whole(owner: object, name: str, least: int, most: int | None = None) -> None:
    """Make a field a plain int of at least `least` and at most `most`, or refuse it."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        refuse(owner, name, f"a whole number of at least {least}", value)
    if most is not None and int(value) > most:
        refuse(owner, name, f"a whole number of at most {most:,}", value)
    object.__setattr__(owner, name, int(value))


def check_share(owner: object, name: str, *, one: bool = False) -> None:
    """Make a field a plain float in [0, 1), or [0, 1] with `one`, or refuse it."""
    value = getattr(owner, name)
    allowed = "in [0, 1]" if one else "in [0, 1)"
    if isinstance(value, bool) or not isinstance(value, Real):
        refuse(owner, name, allowed, value)
    share = float(value)
    if math.isnan(share) or not 0 <= share <= 1 or (share == 1 and not one):
        percent = f" Write {share / 100:g} for {share:g} %." if 1 < share < 100 else ""
        refuse(owner, name, allowed, share, " At 1.0 no weight would be left." if share == 1 else percent)
    object.__setattr__(owner, name, share)


@dataclass(frozen=True)
class Limit:
    """At most so much: a number, or a share of what it was."""

    text: str
    number: float
    relative: bool

    def of(self, before: int) -> int:
        """Return the most that is allowed, given what it was."""
        return int(before * self.number) if self.relative else int(self.number)


def parse_limit(text: str) -> Limit | None:
    """Return the limit that `text` means: ``0.6x`` (of what it was) or ``450000``; None where it is neither.

    >>> parse_limit("0.6x").of(745665), parse_limit("450_000").of(745665)
    (447399, 450000)
    """
    found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)(x?)", text.strip())
    number = float(found[1].replace("_", "")) if found else 0.0
    relative = bool(found and found[2])
    if not found or number <= 0 or (relative and number > 1) or (not relative and number != int(number)):
        return None
    return Limit(text.strip(), number, relative)


_UNITS = {"x": 1.0, "ms": 1e6, "s": 1e9, "": 1e9}
"""Unit of a latency -> nanoseconds; of a share 1."""


def parse_latency(text: str) -> Limit | None:
    """Return the limit in nanoseconds that `text` means: ``0.6x``, ``12ms``, ``0.012s`` or seconds; None where it is neither.

    >>> parse_latency("0.6x").of(10_000_000), parse_latency("12ms").of(0), parse_latency("0.012").of(0)
    (6000000, 12000000, 12000000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-?\d+)?) ?(x|ms|s|)", text.strip())
    number = float(found[1]) if found else 0.0
    if not found or not 0 < number < math.inf or (found[2] == "x" and number > 1):
        return None
    return Limit(
        text.strip(), number if found[2] == "x" else round(number * _UNITS[found[2]], 3), found[2] == "x"
    )


def limits(owner: object, names: Iterable[str]) -> dict[str, Limit]:
    """Return the fields of `owner` that are given as limits, each checked and made a text.

    Raises:
        ConfigError: one is neither a share such as 0.6x nor a whole number.
    """
    found = {}
    for name in names:
        value = getattr(owner, name)
        if value is None:
            continue
        limit = parse_limit(str(value))
        if limit is None:
            refuse(owner, name, "a share such as 0.6x, up to 1x, or a whole number", value)
        object.__setattr__(owner, name, limit.text)
        found[name] = limit
    return found
