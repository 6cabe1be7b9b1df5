"""What a comparison found: a row for each candidate, and which of them are worth having."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchthin.errors import ConfigError, near_matches
from torchthin.evaluation.evaluator import DISTANCE

VERSION = 1
WITHIN = 0.01
DENSE = "dense"


@dataclass(frozen=True)
class Row:
    """What one candidate costs and what it is worth. A candidate that failed has a reason instead of figures."""

    method: str
    """``dense`` for the model before pruning."""
    criterion: str = ""
    target: str = ""
    macs: int | None = None
    """Multiply-accumulates of one forward pass of the thinned model on one sample."""
    macs_per_sample: bool = True
    """False: the example shows no batch axis, and `macs` are of the whole example."""
    parameters: int | None = None
    parameter_bytes: int | None = None
    channel_sparsity: float | None = None
    """Share of the channels of the targeted weights that is removed."""
    value: float | None = None
    """The metric (higher is better), or without one the distance to the dense outputs (lower is better)."""
    latency_ms: float | None = None
    """Median of forward passes that took turns with the dense model's."""
    dense_latency_ms: float | None = None
    """Median of the dense model's in those turns."""
    cycles: int | None = None
    """Of one run on the chip; None where the model does not map to it."""
    seconds: float = 0.0
    """What pruning, recovering and measuring took."""
    failure: str | None = None
    """Why there are no figures."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Method, criterion and target in words."""
        return " ".join(part for part in (self.method, self.criterion, self.target) if part)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types; `from_dict` makes the same row of them."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Row:
        """Return the row that `to_dict` wrote.

        Raises:
            TypeError: it is something else.
            ValueError: a figure is not finite.
        """
        row = cls(**{**facts, "notes": tuple(facts["notes"])})
        figures = (row.macs, row.value, row.latency_ms, row.cycles)
        if not all(figure is None or math.isfinite(figure) for figure in figures):
            raise ValueError("a figure is not finite")
        return row


@dataclass(frozen=True)
class CostKind:
    """A figure that a model can be small in."""

    of: Callable[[Row], float | None]
    name: str
    axis: str
    """Label in a picture."""


def _latency_share(row: Row) -> float | None:
    if row.latency_ms is None or row.dense_latency_ms is None:
        return None
    return row.latency_ms / row.dense_latency_ms


COSTS = {
    "macs": CostKind(lambda row: row.macs, "MACs", "multiply-accumulates"),
    "parameters": CostKind(lambda row: row.parameters, "parameters", "parameters"),
    "bytes": CostKind(lambda row: row.parameter_bytes, "bytes", "bytes of parameters"),
    "latency": CostKind(_latency_share, "latency", "latency, as a share of the dense model's"),
    "cycles": CostKind(lambda row: row.cycles, "cycles", "chip cycles"),
}
"""Latency counts as a share of the dense model's in the same turns, since machines drift."""


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
        """Whether values are of a metric, not distances."""
        return self.metric != DISTANCE

    @property
    def all_failed(self) -> bool:
        """Whether no candidate has figures."""
        return all(row.failure is not None for row in self.rows)

    def front(self, cost: str = "macs") -> tuple[Row, ...]:
        """Return the rows that no other beats in both value and `cost`, by rising cost; the dense model is a row too.

        Raises:
            ConfigError: there is no such cost, or no row has it.
        """
        rows, values, costs = self._points(cost)
        return tuple(rows[number] for number in pareto_front(values, costs))

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
        dense = self.dense.value or 0.0
        least = dense - within * abs(dense) if self.labelled else -within
        good = [number for number, value in enumerate(values) if value >= least]
        number = min(good, key=lambda n: (costs[n], -values[n], n), default=None)
        return None if number is None or rows[number] is self.dense else rows[number]

    def _points(self, cost: str) -> tuple[list[Row], list[float], list[float]]:
        """Return the rows that have the cost, dense first, with value (higher is better) and cost."""
        check_cost(cost)
        figures = [(row, row.value, COSTS[cost].of(row)) for row in (self.dense, *self.rows)]
        sign = 1.0 if self.labelled else -1.0
        found = [(row, sign * v, float(c)) for row, v, c in figures if v is not None and c is not None]
        if not found and not self.all_failed:
            raise ConfigError(
                f"No model has the cost {cost!r}. Latency needs --latency; cycles need --chip and a model that maps to it."
            )
        return [row for row, _, _ in found], [v for _, v, _ in found], [c for _, _, c in found]

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


def check_cost(cost: str) -> None:
    """Raise ConfigError with near matches if there is no such cost."""
    if cost not in COSTS:
        raise ConfigError(
            f"The cost of compare must be one of {', '.join(COSTS)}. Got {cost!r}.{near_matches(cost, COSTS)}"
        )


def check_within(within: float) -> None:
    """Raise ConfigError unless `within` is a number of at least 0."""
    if not 0 <= within < math.inf:
        raise ConfigError(f"The within of compare must be a number of at least 0. Got {within!r}.")


def pareto_front(values: Sequence[float], costs: Sequence[float]) -> tuple[int, ...]:
    """Return the numbers of the points that no other beats, by rising cost; equal points are all kept.

    A point beats another if it is as good in both figures and better in one (Pareto dominance).

    >>> pareto_front([0.9, 0.8, 0.7, 0.85], [100, 50, 60, 40])
    (3, 0)
    """
    found: list[int] = []
    for number in sorted(range(len(values)), key=lambda n: (costs[n], -values[n])):
        last = found[-1] if found else number
        equal = (values[number], costs[number]) == (values[last], costs[last])
        if equal or values[number] > values[last]:
            found.append(number)
    return tuple(found)
