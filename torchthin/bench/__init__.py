"""What thinning brings at run time: latency of two models measured in turns, memory, file sizes."""

from torchthin.bench.measuring import bench
from torchthin.bench.results import BenchResult, Timing

__all__ = ["BenchResult", "Timing", "bench"]
