"""Objects in pictures: the loss and the average precision of a detector with one box for each place of two grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

GRIDS = (8, 4)
SMALL = 0.22
"""Objects up to this share of the side are of the fine grid."""
OVERLAP = 0.5


def _targets(objects: Tensor, grid: int, *, fine: bool) -> tuple[Tensor, Tensor]:
    """Return the kind at every place (N, grid * grid), 0 where there is none, and its box (N, grid * grid, 4)."""
    count = len(objects)
    kinds, boxes = torch.zeros(count, grid * grid, dtype=torch.long), torch.zeros(count, grid * grid, 4)
    for slot in range(objects.shape[1]):
        kind, row, column, high, wide = objects[:, slot].T
        here = (kind >= 0) & ((high <= SMALL) == fine)
        cells = (torch.stack([row, column], 1) * grid).long().clamp(0, grid - 1)
        place = cells[:, 0] * grid + cells[:, 1]
        inside = torch.stack([row, column], 1) * grid - cells - 0.5
        size = torch.log(torch.stack([high, wide], 1).clamp_min(1e-3) * grid)
        which = here.nonzero().flatten()
        kinds[which, place[which]] = kind[which].long() + 1
        boxes[which, place[which]] = torch.cat([inside, size], 1)[which]
    return kinds, boxes


def detection_loss(outputs: Sequence[Tensor], objects: Tensor) -> Tensor:
    """Return cross entropy of kinds and the smooth L1 loss of boxes, over both grids."""
    total = torch.zeros(())
    for number, grid in enumerate(GRIDS):
        scores, found = (one.flatten(2).transpose(1, 2) for one in outputs[2 * number : 2 * number + 2])
        kinds, boxes = _targets(objects, grid, fine=number == 0)
        there = kinds > 0
        each = functional.cross_entropy(scores.transpose(1, 2), kinds, reduction="none")
        total = total + (each[there].sum() + 0.3 * each[~there].sum()) / there.sum().clamp_min(1)
        total = total + 2 * functional.smooth_l1_loss(found[there], boxes[there], beta=0.1)
    return total


def _boxes(outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the confidence (N, places), the kind and the box (row, column, height, width) of every place."""
    confidences, kinds, boxes = [], [], []
    for number, grid in enumerate(GRIDS):
        scores, found = (one.flatten(2).transpose(1, 2) for one in outputs[2 * number : 2 * number + 2])
        best, kind = scores.softmax(2)[:, :, 1:].max(2)
        cells = torch.cartesian_prod(torch.arange(grid), torch.arange(grid))
        centre = (found[:, :, :2] + cells + 0.5) / grid
        confidences.append(best)
        kinds.append(kind)
        boxes.append(torch.cat([centre, found[:, :, 2:].clamp(-6, 6).exp() / grid], 2))
    return torch.cat(confidences, 1), torch.cat(kinds, 1), torch.cat(boxes, 1)


def _overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Return intersection over union of boxes (..., 4)."""
    low = torch.maximum(one[..., :2] - one[..., 2:] / 2, other[..., :2] - other[..., 2:] / 2)
    high = torch.minimum(one[..., :2] + one[..., 2:] / 2, other[..., :2] + other[..., 2:] / 2)
    both = (high - low).clamp_min(0).prod(-1)
    return both / (one[..., 2:].prod(-1) + other[..., 2:].prod(-1) - both)


def average_precision(outputs: Sequence[Tensor], objects: Tensor) -> float:
    """Return the area below precision over recall, all kinds together; a box is right once, with its kind and overlap."""
    confidences, kinds, boxes = _boxes(outputs)
    there = objects[:, :, 0] >= 0
    overlaps = _overlaps(boxes[:, :, None], objects[:, None, :, 1:])
    overlaps = overlaps.masked_fill((kinds[:, :, None] != objects[:, None, :, 0]) | ~there[:, None], 0)
    taken = torch.zeros_like(there)
    right = []
    order = confidences.flatten().argsort(descending=True)
    places = confidences.shape[1]
    for picture, place in zip((order // places).tolist(), (order % places).tolist(), strict=True):
        free = overlaps[picture, place].masked_fill(taken[picture], 0)
        best = int(free.argmax())
        right.append(bool(free[best] >= OVERLAP))
        taken[picture, best] |= right[-1]
    hits = torch.tensor(right, dtype=torch.float64)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    best_after = precision.flip(0).cummax(0).values.flip(0)
    return float((best_after * hits).sum() / there.sum())
