"""Models that benchmarks and tests share: torchvision's list and small transformers configs, with random weights."""

from zoo.case import Case
from zoo.catalogue import cases

__all__ = ["Case", "cases"]
