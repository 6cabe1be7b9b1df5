"""Tensors made inside forward: fresh labels; whether their size follows the model is found by trying."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchthin.dependency.dead_rules import ZERO, DeadCall, Emissions, live, moved, overwritten
from torchthin.dependency.labels import Axes
from torchthin.dependency.registry import Call, register_op


def unwritten(call: DeadCall) -> Emissions:
    """Nothing that is read: what is written later says what it holds."""
    return np.full_like(call.nowhere(), ZERO)


@register_op(
    "aten.zeros", "aten.ones", "aten.full", "aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.scalar_tensor",
    dead=overwritten,
)  # fmt: skip
@register_op("aten.rand", "aten.randn", "aten.randint", dead=live)
@register_op(
    "aten.empty", "aten.new_empty", "aten.empty_strided", "aten.new_empty_strided", "aten.empty_permuted",
    dead=unwritten,
)  # fmt: skip
def made_in_forward(call: Call) -> list[Axes]:
    """Every index is like any other: fresh labels on every axis."""
    return [tuple(call.space.fresh(n, expandable=True) if n > 1 else None for n in call.out_shape())]


def resized(call: DeadCall) -> Emissions:
    """The same numbers where the size stays; otherwise nobody knows which."""
    return moved(call) if tuple(call.arg("size")) == call.shape("self") else live(call)


@register_op("aten.resize_", dead=resized)
def resize(call: Call) -> Sequence[Axes]:
    """Memory for another shape holds nothing of use yet; most calls ask for the shape that there is."""
    if call.out_shape() == call.shape("self"):
        return [call.axes("self")]
    call.freeze_all(call.axes("self"), "resized to another shape")
    return made_in_forward(call)


@register_op(
    "aten.arange", "aten.linspace", "aten.logspace", "aten.randperm", "aten.tril_indices", "aten.triu_indices",
    "aten.hann_window", "aten.hamming_window", "aten.blackman_window", "aten.kaiser_window", "aten.bartlett_window",
    "aten.fft_fftfreq", "aten.fft_rfftfreq",
)  # fmt: skip
def counted(call: Call) -> list[Axes]:
    """The numbers count positions, and would differ if one were removed: all are frozen."""
    axes = tuple(call.space.fresh(n) if n > 1 else None for n in call.out_shape())
    call.freeze_all(axes, "its numbers count positions")
    return [axes]


@register_op("aten.eye")
def eye(call: Call) -> list[Axes]:
    """A square unit matrix loses row and column together; any other loses nothing."""
    rows, columns = call.out_shape()
    if rows == columns and rows > 1:
        axis = call.space.fresh(rows, expandable=True)
        return [(axis, axis)]
    return [(None, None)]
