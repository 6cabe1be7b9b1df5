"""How long layers and models take on the device at hand: a table of measured times, and whole models run in turns."""

from torchthin.evaluation.latency.cache import LatencyCache
from torchthin.evaluation.latency.layer_table import LayerTable
from torchthin.evaluation.latency.stopwatch import Stopwatch, WallClock, in_turns

__all__ = ["LatencyCache", "LayerTable", "Stopwatch", "WallClock", "in_turns"]
