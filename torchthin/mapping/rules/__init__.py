"""Rules: one function for each operator, by family. Importing this package registers them all."""

from torchthin.mapping.rules import contraction, elementwise, joining, pooling, steps, views

__all__ = ["contraction", "elementwise", "joining", "pooling", "steps", "views"]
