"""What thinning saves at run time: latency of two models measured in turns, memory, file sizes."""

from torchthin.evaluation.bench.latency import bench
from torchthin.evaluation.bench.results import BenchResult, Timing

__all__ = ["BenchResult", "Timing", "bench"]
