"""Rules: one function for each operator, by family. Importing this package registers them all."""

from torchthin.max7800x.mapping.rules import concatenation, contraction, elementwise, pooling, steps, views

__all__ = ["concatenation", "contraction", "elementwise", "pooling", "steps", "views"]
