"""torchvision's compiled operators in Python, for machines where its library does not load (beside a CPU torch, say).

Only what its models call is made: ``nms`` and ``roi_align``, forward and backward. `define` must run before torchvision
is imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)
_LIBRARIES: list[torch.library.Library] = []


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return which boxes (x1, y1, x2, y2) no better box overlaps by more than the threshold, best first."""
    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order]
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    over = shared > iou_threshold * (area[:, None] + area[None, :] - shared)
    rows = over.numpy()
    kept = torch.ones(len(order), dtype=torch.bool).numpy()
    for index in range(len(order)):
        if kept[index]:
            kept[index + 1 :] &= ~rows[index, index + 1 :]
    return order[torch.from_numpy(kept)]


def roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Average bilinear samples in each cell of each region.

    Args:
        input: shape (batch, c, h, w).
        rois: shape (n, 5): number in the batch, then x1, y1, x2, y2.
        sampling_ratio: samples a cell has along each axis; 2 where the compiled operator would adapt it (below 1).

    Returns:
        shape (n, c, pooled_height, pooled_width).
    """
    sampling_ratio = sampling_ratio if sampling_ratio > 0 else 2
    offset = 0.5 if aligned else 0.0
    low = rois[:, 1:3] * spatial_scale - offset
    extent = rois[:, 3:5] * spatial_scale - offset - low
    extent = extent if aligned else extent.clamp(min=1.0)
    numbers = rois[:, 0].long()[:, None, None]
    made = input.new_zeros(())
    grids = [
        low[:, axis, None] + (torch.arange(n, dtype=input.dtype) + 0.5) * extent[:, axis, None] / n
        for axis, n in ((1, pooled_height * sampling_ratio), (0, pooled_width * sampling_ratio))
    ]
    rows, columns = (_corners(grid, size) for grid, size in zip(grids, input.shape[2:], strict=True))
    for y, weight_y in rows:
        for x, weight_x in columns:
            picked = input[numbers, :, y[:, :, None], x[:, None, :]]
            made = made + picked * (weight_y[:, :, None] * weight_x[:, None, :])[..., None]
    cells = made.reshape(
        len(rois), pooled_height, sampling_ratio, pooled_width, sampling_ratio, input.shape[1]
    )
    return cells.mean((2, 4)).permute(0, 3, 1, 2).contiguous()


def _corners(positions: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the two neighbours of every position, with their weights; more than one pixel outside counts nothing."""
    inside = ((positions >= -1) & (positions <= size)).to(positions.dtype)
    near = positions.clamp(0, size - 1)
    first = near.floor().long()
    second = (first + 1).clamp(max=size - 1)
    share = near - first
    return [(first, (1 - share) * inside), (second, share * inside)]


def define() -> None:
    """Define the operators unless torchvision's own library is there."""
    if _LIBRARIES or importlib.util.find_spec("torchvision") is None or _compiled():
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    library.impl("nms", nms, "CPU")
    library.impl("roi_align", roi_align, "CPU")
    torch.library.register_autograd("torchvision::roi_align", _backward, setup_context=_remember, lib=library)
    _LIBRARIES.append(library)
    _let_through()


def _compiled() -> bool:
    """Whether torchvision's library loads."""
    found = importlib.util.find_spec("torchvision")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        for library in Path(place).glob("_C.*"):
            try:
                torch.ops.load_library(str(library))
            except OSError:
                continue
            return True
    return False


def _let_through() -> None:
    """torchvision asks once more, in two modules that its models use."""
    import torchvision.ops.boxes
    import torchvision.ops.roi_align

    torchvision.ops.boxes._assert_has_ops = lambda: None
    module: Any = __import__("sys").modules["torchvision.ops.roi_align"]
    module._assert_has_ops = lambda: None
    module._has_ops = lambda: True


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.rest = inputs[2:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    data, rois = ctx.saved_tensors
    with torch.enable_grad():
        again = data.detach().requires_grad_()
        made = roi_align(again, rois, *ctx.rest)
        found = (
            torch.autograd.grad(made, again, gradient) if made.requires_grad else (torch.zeros_like(data),)
        )
    return (found[0], *[None] * 6)
