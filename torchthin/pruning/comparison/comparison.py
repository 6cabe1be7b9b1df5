"""What a comparison found, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchthin.errors import ConfigError, near_matches
from torchthin.pruning.comparison.pareto import front, smallest, within_of
from torchthin.pruning.comparison.row import COSTS, Row

VERSION = 1
WITHIN = 0.01
DISTANCE = "distance"


@dataclass(frozen=True)
class Comparison:
    """Rows of one model; printing it gives the table with the front by MACs."""

    dense: Row
    rows: tuple[Row, ...]
    metric: str
    """``distance``, or the metric's name."""
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether a metric judged, not the distance."""
        return self.metric != DISTANCE

    @property
    def all_failed(self) -> bool:
        """Whether no candidate has figures."""
        return all(row.failure is not None for row in self.rows)

    def front(self, cost: str = "macs") -> tuple[Row, ...]:
        """Return the rows that no other beats in both value and `cost`, by rising cost; the dense model is one of them.

        Raises:
            ConfigError: there is no such cost, or no row has it.
        """
        rows, values, costs = self._points(cost)
        return tuple(rows[number] for number in front(values, costs))

    def smallest(self, within: float = WITHIN, cost: str = "macs") -> Row | None:
        """Return the row of least `cost` that is near enough to the dense model; None if none is, or the dense one is least.

        Args:
            within: with a metric, the share of the dense model's that may be lost: metric >= dense - within * |dense|.
                Without one the largest distance to its outputs.
            cost: of `COSTS`.

        Raises:
            ConfigError: there is no such cost, no row has it, or `within` is no number of at least 0.
        """
        check_within(within)
        rows, values, costs = self._points(cost)
        if self.labelled:
            good: Sequence[bool] = within_of(values, self.dense.value or 0.0, within)
        else:
            good = [-value <= within for value in values]
        number = smallest(values, costs, good)
        return None if number is None or rows[number] is self.dense else rows[number]

    def _points(self, cost: str) -> tuple[list[Row], list[float], list[float]]:
        """Return the rows that have the cost, dense first, with value (higher is better) and cost."""
        figure = COSTS.get(check_cost(cost))
        assert figure is not None
        found = [(row, row.value, figure(row)) for row in (self.dense, *self.rows)]
        whole = [(row, v, c) for row, v, c in found if v is not None and c is not None]
        if not whole and not self.all_failed:
            raise ConfigError(
                f"No model has the cost {cost!r}. Latency needs --latency; cycles need --chip and a model that maps to it."
            )
        sign = 1.0 if self.labelled else -1.0
        return [row for row, _, _ in whole], [sign * v for _, v, _ in whole], [float(c) for _, _, c in whole]

    def to_dict(self, cost: str = "macs", within: float = WITHIN) -> dict[str, Any]:
        """Return JSON types: all rows, each with whether it is on the front, and the answer."""
        best, answer = self.front(cost), self.smallest(within, cost)
        return {
            "version": VERSION,
            "metric": self.metric,
            "cost": cost,
            "within": within,
            "dense": self.dense.to_dict(),
            "rows": [{**row.to_dict(), "front": row in best} for row in self.rows],
            "answer": None if answer is None else answer.to_dict(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        from torchthin.pruning.comparison.text import comparison_text

        return comparison_text(self)


def check_cost(cost: str) -> str:
    """Return the name of a cost; `ConfigError` with near matches if there is no such."""
    if cost not in COSTS:
        raise ConfigError(
            f"The cost of compare must be one of {', '.join(COSTS)}. Got {cost!r}.{near_matches(cost, COSTS)}"
        )
    return cost


def check_within(within: float) -> None:
    """Raise ConfigError unless `within` is a number of at least 0."""
    if not 0 <= within < float("inf"):
        raise ConfigError(f"The within of compare must be a number of at least 0. Got {within!r}.")
