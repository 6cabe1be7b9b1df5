"""What a budget asked for, and what the thinned model costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BudgetFacts:
    """One budget."""

    name: str
    """``parameters`` or ``macs`` (of one forward pass on the example inputs)."""
    limit: int
    before: int
    after: int

    def __str__(self) -> str:
        unit = "MACs" if self.name == "macs" else self.name
        share = self.after / self.before if self.before else 1.0
        return f"Budget: at most {self.limit:,} of {self.before:,} {unit}, reached {self.after:,} ({100 * share:.2f} %)."
