"""What the student should answer: heatmaps and part affinity fields (Cao et al. 2017) on 16x16 cells."""

from __future__ import annotations

import torch

from pose_demo.skeleton import LIMBS
from pose_demo.student import STRIDE

SIGMA = 7.0
LIMB_WIDTH = 8.0


def cell_centres(cells: int, device: torch.device) -> torch.Tensor:
    """Return (cells, cells, 2): x and y in pixels of each output cell's centre."""
    line = (torch.arange(cells, device=device) + 0.5) * STRIDE
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1)


def heatmap_targets(keypoints: torch.Tensor, cells: int = 16) -> torch.Tensor:
    """Return (B, 19, cells, cells) from keypoints (B, P, 18, 3): Gaussians of 7 pixels, and background.

    A point gives exp(-d²/(2·7²)); the P people are joined by the maximum; the background is 1 minus the
    maximum of all. Points with visibility 0 are left out.
    """
    centres = cell_centres(cells, keypoints.device)
    distance = (centres - keypoints[..., None, None, :2]).square().sum(-1)
    present = (keypoints[..., 2] > 0)[..., None, None]
    maps = (torch.exp(-distance / (2 * SIGMA**2)) * present).amax(1)
    return torch.cat([maps, 1 - maps.amax(1, keepdim=True)], 1)


def paf_targets(keypoints: torch.Tensor, cells: int = 16) -> torch.Tensor:
    """Return (B, 38, cells, cells) from keypoints (B, P, 18, 3): x, y of each limb's unit vector along it.

    Cells within 8 pixels of the limb's axis and between its ends (4 pixels beyond them at most) carry the
    vector; where people overlap, the mean of their vectors. A limb needs both its points.
    """
    centres = cell_centres(cells, keypoints.device)
    ends = keypoints[:, :, torch.tensor(LIMBS, device=keypoints.device)]  # (B, P, 19, 2, 3)
    start, end = ends[..., 0, :2], ends[..., 1, :2]
    length = (end - start).norm(dim=-1, keepdim=True).clamp_min(1e-3)
    unit = (end - start) / length
    offset = centres - start[..., None, None, :]  # (B, P, 19, cells, cells, 2)
    direction = unit[..., None, None, :]
    along = (offset * direction).sum(-1)
    across = (offset[..., 0] * direction[..., 1] - offset[..., 1] * direction[..., 0]).abs()
    reach = length[..., None]
    on_limb = (across <= LIMB_WIDTH) & (along >= -LIMB_WIDTH / 2) & (along <= reach + LIMB_WIDTH / 2)
    on_limb &= (ends[..., 2] > 0).all(-1)[..., None, None]
    people = on_limb.sum(1).clamp_min(1)
    fields = (direction * on_limb[..., None]).sum(1) / people[..., None]  # (B, 19, cells, cells, 2)
    flat: torch.Tensor = fields.movedim(-1, 2).flatten(1, 2)
    return flat
