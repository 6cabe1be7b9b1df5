"""Pooling and interpolation: leading axes pass, labelled spatial axes freeze."""

from __future__ import annotations

from torchthin.labels.registry import Call, rule
from torchthin.labels.space import Axes


@rule(
    "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices", "aten.avg_pool1d", "aten.avg_pool2d",
    "aten.avg_pool3d", "aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d", "aten.adaptive_max_pool2d",
    "aten.adaptive_max_pool3d", "aten.max_pool1d", "aten.mkldnn_max_pool2d", "aten.mkldnn_max_pool3d",
    "aten.upsample_nearest1d", "aten.upsample_nearest2d",
    "aten.upsample_nearest3d", "aten._upsample_nearest_exact1d", "aten._upsample_nearest_exact2d",
    "aten._upsample_nearest_exact3d", "aten.upsample_linear1d", "aten.upsample_bilinear2d",
    "aten._upsample_bilinear2d_aa", "aten.upsample_bicubic2d", "aten._upsample_bicubic2d_aa",
    "aten.upsample_trilinear3d", "aten.reflection_pad1d", "aten.reflection_pad2d", "aten.reflection_pad3d",
    "aten.replication_pad1d", "aten.replication_pad2d", "aten.replication_pad3d", "aten.max_unpool2d",
)  # fmt: skip
def spatial(call: Call) -> list[Axes]:
    """Axes whose size is kept pass; on others the labels freeze. The number of spatial axes stands in the op's name."""
    name = next(iter(call.op.arguments))
    data = call.axes(name)
    spatial_axes = int(next(c for c in reversed(call.op.name) if c.isdigit()))
    kept = len(data) - spatial_axes
    for axis in data[kept:]:
        call.freeze(axis, "a spatial axis of pooling or resizing")
    return [(*data[:kept], *(None,) * spatial_axes) for _ in call.op.outputs]


@rule("aten.grid_sampler_2d", "aten.grid_sampler_3d")
def grid_sampler(call: Call) -> list[Axes]:
    """Channels of the input pass; the grid is fixed."""
    data = call.axes("input")
    for axis in (*data[2:], *call.axes("grid")[1:]):
        call.freeze(axis, "a spatial axis of a grid sample")
    return [(data[0], data[1], *(None for _ in data[2:]))]
