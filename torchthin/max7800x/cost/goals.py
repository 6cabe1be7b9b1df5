"""What a cut is asked for in a chip's terms."""

from __future__ import annotations

from dataclasses import dataclass

from torchthin.config import Limit


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
