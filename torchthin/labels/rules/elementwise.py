"""Elementwise ops: operands share their axes, size-1 axes broadcast."""

from __future__ import annotations

from torchthin.labels.registry import Call, rule
from torchthin.labels.space import Axes, Axis, Merged
from torchthin.trace.opgraph import Ref


@rule(
    "aten.copy_", "aten.native_dropout", "aten.dropout", "aten.alias", "aten.detach", "aten.detach_", "aten.clone",
    "aten.contiguous", "aten._to_copy", "aten.to", "aten.lift_fresh", "aten.lift_fresh_copy", "aten.lift", "aten.prelu",
    "aten._prelu_kernel", "aten.rrelu_with_noise", "aten.zeros_like", "aten.ones_like", "aten.empty_like",
    "aten.full_like", "aten.rand_like", "aten.randn_like", "aten.bernoulli", "aten.bernoulli_", "aten.fill_", "aten.fill",
    "aten.zero_", "aten.masked_fill", "aten.masked_fill_", "aten.lerp", "aten.glu_jvp", "aten.view_as_real_copy",
    "aten.nan_to_num", "aten.where", "aten.fake_quantize_per_tensor_affine_cachemask", "aten._conj", "aten.real",
    "aten.isnan", "aten.isinf", "aten.isfinite", "aten.logical_not", "aten.uniform_", "aten.normal_", "aten.gelu_",
    "aten.hardtanh_", "aten.celu", "aten.celu_", "aten.selu", "aten.selu_", "aten.hardswish", "aten.hardswish_",
    "aten.hardsigmoid", "aten.hardsigmoid_", "aten.hardtanh", "aten.silu", "aten.silu_", "aten.mish", "aten.mish_",
    "aten.leaky_relu", "aten.leaky_relu_", "aten.elu", "aten.elu_", "aten.softplus", "aten.softshrink",
    "aten.hardshrink", "aten.log_sigmoid_forward", "aten.threshold", "aten.threshold_",
    accepts_merged=True,
)  # fmt: skip
def elementwise(call: Call) -> list[Axes]:
    """Tie along every axis that the operands share; also serves every operator that torch tags as pointwise."""
    operands = [
        (call.values[ref.value].shape, call.of(ref))
        for ref in call.op.inputs()
        if call.values[ref.value].shape
    ]
    return [
        broadcast(call, operands, () if ref is None else call.values[ref.value].shape)
        for ref in call.op.outputs
    ]


def broadcast(call: Call, operands: list[tuple[tuple[int, ...], Axes]], shape: tuple[int, ...]) -> Axes:
    """Tie operands of the given shapes that are broadcast to `shape`; return the result's axes."""
    return tuple(_shared(call, operands, size, len(shape) - axis) for axis, size in enumerate(shape))


def _shared(call: Call, operands: list[tuple[tuple[int, ...], Axes]], size: int, from_end: int) -> Axis:
    if size == 1:
        return None
    met = [axes[-from_end] for dims, axes in operands if len(dims) >= from_end and dims[-from_end] == size]
    if not met:
        return None
    first = met[0]
    for other in met[1:]:
        if other is not first:
            call.tie(first, other)
    if any(axis is None or (isinstance(axis, Merged) and axis is not first) for axis in met):
        return None
    return first


@rule("aten.broadcast_tensors", "aten.expand_as", "aten.view_as")
def to_shape_of_other(call: Call) -> list[Axes]:
    """Operands that are given only for their shape."""
    return elementwise(call)


@rule(
    "aten._local_scalar_dense",
    "aten.is_nonzero",
    "aten.equal",
    "aten.sym_size",
    "aten.item",
    accepts_merged=True,
)
def to_python(call: Call) -> list[Axes]:
    """A number that leaves the graph."""
    for ref in call.op.inputs():
        for axis in call.of(Ref(ref.value)):
            call.freeze(axis, "its numbers are read by Python code")
    return []


@rule("aten._foreach_add", "aten._foreach_mul")
def foreach(call: Call) -> list[Axes]:
    """Lists of tensors, each on its own."""
    first: list[Ref] = call.arg("self")
    return [call.of(ref) for ref in first]
