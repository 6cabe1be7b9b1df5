"""Rules: one function for each operator, by family. Importing this package registers them all."""

from torchthin.max7800x.mapping.rules import contraction, layout, pointwise, pooling

__all__ = ["contraction", "layout", "pointwise", "pooling"]
