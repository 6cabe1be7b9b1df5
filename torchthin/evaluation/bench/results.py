"""What was measured, as values and as text."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from torchthin.report.tables import table


@dataclass(frozen=True)
class Timing:
    """Latency of both models in one runtime, run in turns."""

    runtime: str
    """``torch`` or ``onnxruntime``, with its version."""
    dense_ms: tuple[float, ...]
    """One entry per run."""
    thinned_ms: tuple[float, ...]

    @property
    def speedup(self) -> float:
        """Median of the dense model over the median of the thinned one."""
        return statistics.median(self.dense_ms) / statistics.median(self.thinned_ms)

    def to_dict(self) -> dict[str, Any]:
        """Return medians, spread and all runs as JSON types."""
        return {
            "runtime": self.runtime,
            "dense_ms": spread(self.dense_ms),
            "thinned_ms": spread(self.thinned_ms),
            "speedup": self.speedup,
            "runs": {"dense_ms": list(self.dense_ms), "thinned_ms": list(self.thinned_ms)},
        }


def spread(times: tuple[float, ...]) -> dict[str, float]:
    """Return median, 10th and 90th percentile and the least of `times`.

    >>> spread((4.0, 1.0, 2.0, 3.0, 100.0))["median"]
    3.0
    """
    ordered = sorted(times)
    last = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "p10": ordered[round(0.1 * last)],
        "p90": ordered[round(0.9 * last)],
        "min": ordered[0],
    }


@dataclass(frozen=True)
class Size:
    """What one model takes."""

    parameters: int
    parameter_bytes: int
    torch_file_bytes: int
    """Of its state dict as a torch file."""
    onnx_file_bytes: int | None
    """None where ONNX was not run."""
    peak_bytes: int
    """Weights and buffers, and the most that the tensors of one forward pass take beside them at once."""


@dataclass(frozen=True)
class BenchResult:
    """The comparison of a dense with a thinned model."""

    dense: Size
    thinned: Size
    timings: tuple[Timing, ...]
    threads: int
    repeats: int
    warmup: int
    device: str
    processor: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON types."""
        return {
            **asdict(self),
            "notes": list(self.notes),
            "timings": [timing.to_dict() for timing in self.timings],
        }

    def __str__(self) -> str:
        rows = [
            (f"{t.runtime}, ms", _span(t.dense_ms), _span(t.thinned_ms), f"{t.speedup:.2f}")
            for t in self.timings
        ]
        for key, label in _SIZES.items():
            before, after = getattr(self.dense, key), getattr(self.thinned, key)
            if before is not None and after is not None:
                ratio = f"{before / after:.2f}" if after else ""
                rows.append((label, f"{before:,}", f"{after:,}", ratio))
        how = (
            f"Medians of {self.repeats} runs in turns (dense, thinned, dense, ...), 10th to 90th percentile in "
            f"brackets, after {self.warmup} unmeasured runs of each; {self.threads} thread{'s' if self.threads > 1 else ''}, "
            f"{self.device}, {self.processor}."
        )
        lines = table(("", "dense", "thinned", "dense / thinned"), rows)
        return "\n".join([*lines, "", how, *(f"Note: {note}" for note in self.notes)])


_SIZES = {
    "parameters": "parameters",
    "torch_file_bytes": "torch file, bytes",
    "onnx_file_bytes": "ONNX file, bytes",
    "peak_bytes": "peak of tensors, bytes",
}


def _span(times_ms: tuple[float, ...]) -> str:
    times = spread(times_ms)
    return f"{times['median']:.3f} ({times['p10']:.3f} to {times['p90']:.3f})"
