"""What a cut is asked for in a chip's terms."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torchthin.errors import ConfigError


@dataclass(frozen=True)
class Limit:
    """At most so much: a number, or a share of what it was."""

    text: str
    number: float
    relative: bool

    def of(self, before: int) -> int:
        """Return the most that is allowed, given what it was."""
        return int(before * self.number) if self.relative else int(self.number)


def parse_limit(name: str, text: str) -> Limit:
    """Return the limit that `text` stands for: ``0.6x`` (of what it was) or ``450000``.

    Raises:
        ConfigError: it is neither, or leaves nothing.

    >>> parse_limit("target_cycles", "0.6x").of(745665), parse_limit("target_cycles", "450_000").of(745665)
    (447399, 450000)
    """
    found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)(x?)", text.strip())
    number = float(found[1].replace("_", "")) if found else 0.0
    relative = bool(found and found[2])
    if not found or number <= 0 or (relative and number > 1) or (not relative and number != int(number)):
        raise ConfigError(
            f"The {name} of prune must be a share such as 0.6x, up to 1x, or a whole number. Got {text!r}."
        )
    return Limit(text.strip(), number, relative)


@dataclass(frozen=True)
class Goals:
    """All that is asked for; None: no limit."""

    cycles: Limit | None = None
    kernel_words: Limit | None = None
    """Of the deepest processor."""
    fit: bool = False
    sparsity: float = 0.0
    """Least share of all channels that goes."""

    def __str__(self) -> str:
        asked = [
            f"at most {limit.text} {unit}"
            for limit, unit in (
                (self.cycles, "cycles"),
                (self.kernel_words, "words in the deepest processor"),
            )
            if limit is not None
        ]
        asked += ["a cut that fits"] if self.fit else []
        asked += [f"at least {100 * self.sparsity:g} % of the channels gone"] if self.sparsity else []
        return ", ".join(asked)
