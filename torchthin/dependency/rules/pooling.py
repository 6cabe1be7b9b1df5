"""Pooling and interpolation: leading axes pass, labelled spatial axes freeze."""

from __future__ import annotations

from torchthin.dependency.dead_rules import DeadCall, Emissions, interpolated, worse, written
from torchthin.dependency.labels import Axes
from torchthin.dependency.registry import Call, register_op
from torchthin.graph.operators import POOLS

AVERAGE_POOLS = frozenset({"aten.avg_pool2d", "aten.avg_pool3d"})


def averaged(call: DeadCall) -> Emissions:
    """A mean of neighbours, among which a border of zeros may count."""
    held = call.of("self")
    padded = any(call.arg("padding", ())) and call.arg("count_include_pad", True)
    return worse(held) if padded or call.arg("divisor_override") else held


@register_op(
    *POOLS - AVERAGE_POOLS,
    "aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_nearest3d",
    "aten._upsample_nearest_exact1d", "aten._upsample_nearest_exact2d", "aten._upsample_nearest_exact3d",
    "aten.upsample_linear1d", "aten.upsample_bilinear2d", "aten._upsample_bilinear2d_aa", "aten.upsample_bicubic2d",
    "aten._upsample_bicubic2d_aa", "aten.upsample_trilinear3d", "aten.reflection_pad1d", "aten.reflection_pad2d",
    "aten.reflection_pad3d", "aten.replication_pad1d", "aten.replication_pad2d", "aten.replication_pad3d",
    dead=interpolated,
)  # fmt: skip
@register_op("aten.max_unpool2d", "aten.max_unpool3d", dead=written)
@register_op(*AVERAGE_POOLS, dead=averaged)
def spatial(call: Call) -> list[Axes]:
    """The last axes are spatial, as many as the op's name says: labels on them freeze, the others pass."""
    data = call.axes(next(iter(call.op.arguments)))
    digits = call.op.name.removesuffix("_with_indices").removesuffix("_aa")
    spatial_axes = int(digits[-2])
    kept = len(data) - spatial_axes
    passed = tuple(axis if _is_left(call, number) else None for number, axis in enumerate(data[kept:]))
    pooled = [axis for axis, left in zip(data[kept:], passed, strict=True) if left is None]
    call.freeze_all(pooled, "a spatial axis of pooling or resizing")
    if call.has("indices"):
        picked = call.axes("indices")
        call.freeze_all(picked[kept:], "a spatial axis of pooling or resizing")
        for a, b, size in zip(data[:kept], picked[:kept], call.shape("indices")[:kept], strict=True):
            if size > 1:
                call.tie(a, b)
    return [(*data[:kept], *passed) for _ in call.op.outputs]


def _is_left(call: Call, number: int) -> bool:
    """Whether a mean of neighbours takes one number along a spatial axis, and leaves it as it is."""
    if call.op.name not in AVERAGE_POOLS:
        return False
    kernel = call.arg("kernel_size")
    sizes = (kernel, call.arg("stride") or kernel, call.arg("padding") or [0])
    return [item[number % len(item)] for item in sizes] == [1, 1, 0]


@register_op(
    "aten.grid_sampler_2d",
    "aten.grid_sampler_3d",
    dead=written,
)
def grid_sampler(call: Call) -> list[Axes]:
    """Channels of the input pass; input and grid share the batch."""
    data, grid = call.axes("input"), call.axes("grid")
    call.freeze_all((*data[2:], *grid[1:]), "a spatial axis of a grid sample")
    if call.shape("input")[0] > 1:
        call.tie(data[0], grid[0])
    return [(data[0], data[1], *(None for _ in data[2:]))]


@register_op("aten.affine_grid_generator")
def affine_grid(call: Call) -> list[Axes]:
    """(N, 2, 3) transformations -> (N, H, W, 2) positions."""
    data = call.axes("theta")
    call.freeze_all(data[1:], "coefficients of a transformation")
    return [(data[0], *(None for _ in call.out_shape()[1:]))]


@register_op("torchvision.roi_align", "torchvision.roi_pool", dead=written)
def regions(call: Call) -> list[Axes]:
    """(N, C, H, W) pictures and (K, 5) regions -> (K, C, h, w): the first column of a region is a picture's number."""
    data, rois = call.axes("input"), call.axes("rois")
    call.freeze_all((data[0], *data[2:], rois[1]), "regions are cut out by their position")
    return [(rois[0], data[1], None, None) for _ in call.op.outputs]
