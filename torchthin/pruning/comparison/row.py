"""One candidate's figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

DENSE = "dense"


@dataclass(frozen=True)
class Row:
    """What one candidate costs and what it leaves of the model. A candidate that failed has a reason instead of figures."""

    method: str
    """``dense`` for the model before pruning."""
    criterion: str = ""
    target: str = ""
    macs: int | None = None
    """Multiply-accumulates of one forward pass of the thinned model on the example inputs."""
    parameters: int | None = None
    parameter_bytes: int | None = None
    channel_sparsity: float | None = None
    """Share of channels that went, of the targeted weights."""
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


def _latency_share(row: Row) -> float | None:
    if row.latency_ms is None or row.dense_latency_ms is None:
        return None
    return row.latency_ms / row.dense_latency_ms


COSTS: dict[str, Callable[[Row], float | None]] = {
    "macs": lambda row: row.macs,
    "parameters": lambda row: row.parameters,
    "bytes": lambda row: row.parameter_bytes,
    "latency": _latency_share,
    "cycles": lambda row: row.cycles,
}
"""What a model can be small in. Latency counts as a share of the dense model's in the same turns, since machines drift."""
