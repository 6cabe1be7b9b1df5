"""Tensors made inside forward: fresh labels; whether their size follows the model is found by trying."""

from __future__ import annotations

from torchthin.labels.registry import Call, rule
from torchthin.labels.space import Axes


@rule(
    "aten.zeros", "aten.ones", "aten.empty", "aten.full", "aten.arange", "aten.linspace", "aten.rand", "aten.randn",
    "aten.randint", "aten.randperm", "aten.new_zeros", "aten.new_ones", "aten.new_empty", "aten.new_full",
    "aten.scalar_tensor", "aten.empty_strided", "aten.new_empty_strided", "aten.eye", "aten.empty_permuted",
    "aten.zeros_", "aten._efficientzerotensor", "aten.empty_memory_format",
)  # fmt: skip
def made_in_forward(call: Call) -> list[Axes]:
    """Fresh labels on every axis."""
    return [tuple(call.space.fresh(n) if n > 1 else None for n in call.out_shape())]
