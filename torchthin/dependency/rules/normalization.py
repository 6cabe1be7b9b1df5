"""Normalisation: channel vectors are tied to the channel axis; statistics over channels are marked."""

from __future__ import annotations

import numpy as np

from torchthin.dependency.dead_rules import (
    ABSENT,
    CONSTANT,
    LIVE,
    SHIFTED,
    VARYING,
    ZERO,
    DeadCall,
    Emissions,
    least,
    pointwise,
    product,
    rounded,
)
from torchthin.dependency.labels import Axes, Axis, with_axis
from torchthin.dependency.registry import Call, positive, register_op
from torchthin.graph.operators import BATCH_NORMS, LAYER_NORMS, RMS_NORMS


def scaled(call: DeadCall) -> Emissions:
    """Every channel by itself; by a weight of zero it becomes the bias."""
    weight, bias = (call.of(name) if call.has(name) else call.nowhere() for name in ("weight", "bias"))
    made = np.where(weight == ZERO, np.maximum(bias, CONSTANT), pointwise(call))
    own = call.has("running_mean") and not call.arg(
        "training", call.op.name == "aten._batch_norm_with_update"
    )
    return (made if own else np.where(call.of("input", 1) == ABSENT, least(made, LIVE), made)).astype(np.int8)


def from_statistics(call: DeadCall) -> Emissions:
    """Statistics of all channels reach every one of them, unless its weight is zero; a norm by size alone keeps zeros."""
    data = next(iter(call.op.arguments))
    rank = len(call.shape(data))
    among = (
        range(rank - len(call.arg("normalized_shape")), rank)
        if call.op.name in LAYER_NORMS
        else range(1, rank)
    )
    held, inside = call.of(data), call.of(data, *among)
    made = np.where(held == ZERO, ZERO if call.op.name in RMS_NORMS else SHIFTED, LIVE)
    if call.has("bias"):
        made = np.where(call.of("bias") == ZERO, made, np.where(made == SHIFTED, LIVE, made))
    weight = call.of("weight") if call.has("weight") else call.nowhere()
    bias = call.of("bias") if call.has("bias") else call.nowhere()
    made = np.where(weight == ZERO, np.maximum(bias, CONSTANT), made)
    plain = not call.has("weight") and not call.has("bias")
    known = call.static("weight") and call.static("bias")
    apart = least(held, CONSTANT if plain else VARYING if known else LIVE)
    return np.where(inside == ABSENT, apart, made).astype(np.int8)


@register_op(*BATCH_NORMS, dead=scaled)
def batch_norm(call: Call) -> list[Axes]:
    """Weight, bias, running mean and variance follow axis 1."""
    data = call.axes("input")
    if call.shape("input")[1] > 1:
        for name in ("weight", "bias", "running_mean", "running_var"):
            if call.has(name):
                call.tie(data[1], call.axes(name)[0])
    training = call.arg("training", call.op.name == "aten._batch_norm_with_update")
    call.statistics = (training or not call.has("running_mean")) and any(
        axis is not None for d, axis in enumerate(data) if d != 1
    )
    return [data, *(_vector(call, i, data[1]) for i in range(1, len(call.op.outputs)))]


def _vector(call: Call, output: int, channels: Axis) -> Axes:
    """Saved statistics: one number per channel, or nothing."""
    shape = call.out_shape(output)
    return (channels,) if shape and shape == call.out_shape()[1:2] else (None,) * len(shape)


@register_op(*LAYER_NORMS, dead=from_statistics)
def layer_norm(call: Call) -> list[Axes]:
    """Weight and bias follow the last axes, over which the statistics run."""
    data = call.axes("input")
    normalized = len(call.arg("normalized_shape"))
    for name in ("weight", "bias"):
        if call.has(name):
            for a, b, size in zip(data[-normalized:], call.axes(name), call.shape(name), strict=True):
                if size > 1:
                    call.tie(a, b)
    call.statistics = any(axis is not None for axis in data[-normalized:])
    saved: Axes = (*data[:-normalized], *(None,) * normalized)
    return [data, *(saved for _ in call.op.outputs[1:])]


def from_groups(call: DeadCall) -> Emissions:
    """Statistics of all channels of a norm group reach every one of them."""
    alone = call.arg("group") == call.shape("input")[1] > 1
    return scaled(call) if alone else from_statistics(call)


@register_op("aten.native_group_norm", dead=from_groups)
def group_norm(call: Call) -> list[Axes]:
    """Like layer norm over axis 1 in blocks: equal numbers are removed from every norm group, which may be one channel."""
    data = call.axes("input")
    channels = data[1]
    for name in ("weight", "bias"):
        if call.has(name):
            call.tie(channels, call.axes(name)[0])
    norm_groups = int(call.arg("group"))
    if isinstance(channels, np.ndarray) and 1 < norm_groups < channels.size:
        call.space.balance(channels.reshape(norm_groups, -1))
    alone = norm_groups == call.shape("input")[1] > 1
    call.statistics = any(axis is not None for axis in data[2 if alone else 1 :])
    return [data, *((data[0], channels if alone else None) for _ in call.op.outputs[1:])]


def distributed(call: DeadCall) -> Emissions:
    """Along another axis than the channel's: even, a matter of how many there are. Along the channel's axis all are shared."""
    held = call.of("self")
    among = call.of("self", int(call.arg("dim")))
    made = np.where(np.isin(held, (ZERO, CONSTANT)), VARYING, held)
    return np.where(among == ABSENT, made, LIVE).astype(np.int8)


@register_op("aten._softmax", "aten._safe_softmax", "aten._log_softmax", dead=distributed)
def softmax(call: Call) -> list[Axes]:
    """A distribution over one axis: its entries are shares of a whole, no channels."""
    data = call.axes("self")
    if not data:
        return [data]
    dim = positive(int(call.arg("dim")), len(data))
    call.freeze(data[dim], "a softmax runs over it, and removing one entry changes all")
    return [with_axis(data, dim, None)]


def by_length(call: DeadCall) -> Emissions:
    """Zero by a zero length; else by the norm of other numbers."""
    return np.where(call.of("g") == ZERO, ZERO, least(product(call), LIVE)).astype(np.int8)


@register_op("aten._weight_norm_interface", dead=by_length)
def weight_norm(call: Call) -> list[Axes]:
    """w = g v / |v|, the norm over all axes but `dim`."""
    v, g = call.axes("v"), call.axes("g")
    dim = int(call.arg("dim", 0))
    if call.shape("g")[dim] > 1:
        call.tie(v[dim], g[dim])
    call.statistics = any(axis is not None for position, axis in enumerate(v) if position != dim)
    return [v, g]


@register_op("aten._fused_moving_avg_obs_fq_helper", dead=rounded)
def observed_fake_quantization(call: Call) -> list[Axes]:
    """Rounding whose scale follows the extremes of what it has seen, of each row along one axis or of everything.

    While it observes, extremes over fewer numbers are others.
    """
    data, observes = call.axes("self"), call.values[call.value("observer_on")].data
    axis = positive(int(call.arg("ch_axis")), len(data)) if call.arg("per_row_fake_quant", False) else None
    for name in ("running_min", "running_max", "scale", "zero_point"):
        if axis is not None and call.shape(name) != (call.shape("self")[axis],):
            call.freeze_all(data, "its observer has seen no data yet")
        elif axis is not None:
            call.tie(data[axis], call.axes(name)[0])
    if observes is None or bool(observes.any()):
        call.statistics = any(labels is not None for d, labels in enumerate(data) if d != axis)
    return [data, data]
