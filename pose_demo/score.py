"""Score a pose model: PCK and mean OKS of one person per picture, on the shipped set or a COCO folder.

The person's box is given, as in COCO's top-down evaluation: each heatmap's highest cell inside the box (a
tenth wider on each side) is that keypoint, refined below the cell size. Several people in one picture are
therefore scored one crop at a time; grouping people by part affinity fields is not part of the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pose_demo.skeleton import KEYPOINTS, SIGMAS
from pose_demo.student import INPUT_SHAPE, STRIDE
from pose_demo.validation import VALIDATION_FILE, PoseData, load_data
from torchthin.errors import InputError

SYNTHETIC = "the synthetic validation set"
_BOX_MARGIN = 0.1
_FLOOR = 1e-3


@dataclass(frozen=True)
class PoseScore:
    """Accuracy of a pose model, all shares in 0..1.

    `pck_01`, `pck_02`: share of labelled keypoints found within 0.1 and 0.2 of the longer side of the
    person's box (Yang & Ramanan 2013). `oks`: mean object keypoint similarity with COCO's sigmas, over
    people, the neck left out. Labelled means in the picture, hidden or not. `data` says what was scored:
    scores on synthetic pictures tell nothing about real ones.
    """

    pck_01: float
    pck_02: float
    oks: float
    people: int
    keypoints: int
    data: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types."""
        return asdict(self)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 pictures of any shape as the student's float input, in [-1, 127/128]."""
    return (images.float() - 128) / 128


def decode(heatmaps: torch.Tensor, boxes: torch.Tensor | None = None) -> torch.Tensor:
    """Return (N, 18, 3): x, y in pixels and the peak's height, of heatmaps (N, 19, h, w).

    `boxes` (N, 4) x, y, width, height limit where peaks may lie; without them the whole picture counts, that
    is, the most prominent person. The position within the peak's cell is the vertex of parabolas through the
    logarithms of the neighbouring cells, exact for a Gaussian.
    """
    maps = heatmaps[:, : len(KEYPOINTS)].float()
    height, width = maps.shape[-2:]
    if boxes is not None:
        maps = maps.masked_fill(~_inside(boxes.to(maps.device), height, width)[:, None], -torch.inf)
    peak, cell = maps.flatten(2).max(-1)
    x, y = cell % width, cell // width
    logs = heatmaps[:, : len(KEYPOINTS)].float().clamp_min(_FLOOR).log()
    position = [
        _refine(logs, x, y, step) + middle for step, middle in (((1, 0), x.float()), ((0, 1), y.float()))
    ]
    return torch.stack([(position[0] + 0.5) * STRIDE, (position[1] + 0.5) * STRIDE, peak], -1)


def _inside(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return (N, h, w): the cells whose square touches the box, widened by a tenth of its sides."""
    size = boxes[:, 2:]
    low = ((boxes[:, :2] - _BOX_MARGIN * size) / STRIDE).floor()
    high = (boxes[:, :2] + (1 + _BOX_MARGIN) * size) / STRIDE
    x, y = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    across = (x >= low[:, :1].clamp_max(width - 1)) & (x < high[:, :1].clamp_min(1))
    down = (y >= low[:, 1:].clamp_max(height - 1)) & (y < high[:, 1:].clamp_min(1))
    return down[:, :, None] & across[:, None, :]


def _refine(logs: torch.Tensor, x: torch.Tensor, y: torch.Tensor, step: tuple[int, int]) -> torch.Tensor:
    """Return the offset in cells, in [-0.5, 0.5], of the parabola's vertex along `step`; 0 at the border."""
    height, width = logs.shape[-2:]
    inside = (x >= step[0]) & (x < width - step[0]) & (y >= step[1]) & (y < height - step[1])

    def at(direction: int) -> torch.Tensor:
        column = (x + direction * step[0]).clamp(0, width - 1)
        row = (y + direction * step[1]).clamp(0, height - 1)
        return logs.flatten(2).gather(2, (row * width + column)[..., None])[..., 0]

    before, middle, after = at(-1), at(0), at(1)
    bend = before - 2 * middle + after
    offset = torch.where(bend < -1e-6, 0.5 * (before - after) / bend.clamp_max(-1e-6), torch.zeros_like(bend))
    return offset.clamp(-0.5, 0.5) * inside


@torch.no_grad()
def predict(
    model: nn.Module, images: np.ndarray, boxes: np.ndarray, device: str = "cpu", batch_size: int = 20
) -> np.ndarray:
    """Return keypoints (N, 18, 3) of uint8 pictures (N, 3, H, W). The model's training flags are put back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    found = []
    for start in range(0, len(images), batch_size):
        part = torch.from_numpy(images[start : start + batch_size]).to(device)
        box = torch.from_numpy(boxes[start : start + batch_size]).float().to(device)
        found.append(decode(_heatmaps(model(normalise(part))), box).cpu())
    for module in training:
        module.training = True
    return torch.cat(found).numpy()


def _heatmaps(output: Any) -> torch.Tensor:
    first = output[0] if isinstance(output, Sequence) and len(output) else output
    if not isinstance(first, torch.Tensor) or first.dim() != 4 or first.shape[1] < len(KEYPOINTS):
        raise InputError(
            "A pose model must return [heatmaps (N, 19, h, w), ...] with one map per OpenPose keypoint. "
            f"Got {type(first).__name__} {tuple(getattr(first, 'shape', ()))}."
        )
    return first


def score(
    model: nn.Module, data: PoseData, *, name: str, device: str = "cpu", batch_size: int = 20
) -> PoseScore:
    """Return the model's score on `data`, which `name` names. Raises InputError when there is nobody."""
    if len(data.images) == 0:
        raise InputError(f"There must be at least one person with keypoints to score. {name} holds none.")
    found = predict(model, data.images, data.boxes, device, batch_size)
    return score_keypoints(found, data, name=name)


def score_keypoints(found: np.ndarray, data: PoseData, *, name: str) -> PoseScore:
    """Return the score of keypoints (N, 18, 2 or more) found on the pictures of `data`."""
    labelled = data.keypoints[..., 2] > 0
    distance = np.linalg.norm(found[..., :2].astype(np.float64) - data.keypoints[..., :2], axis=-1)
    distance = np.where(np.isfinite(distance), distance, np.inf)
    share = distance / data.boxes[:, 2:].max(1)[:, None]
    # OKS of one keypoint (cocodataset.org/#keypoints-eval): exp(-d² / (2 area (2 sigma)²))
    with np.errstate(invalid="ignore"):
        similarity = np.exp(-(distance**2) / (2 * data.areas[:, None] * (2 * SIGMAS) ** 2))
    counted = labelled & ~np.isnan(SIGMAS)
    people = counted.any(1)
    per_person = np.where(counted, similarity, 0).sum(1)[people] / counted.sum(1)[people]
    return PoseScore(
        pck_01=float((share[labelled] <= 0.1).mean()),
        pck_02=float((share[labelled] <= 0.2).mean()),
        oks=float(per_person.mean()),
        people=len(data.images),
        keypoints=int(labelled.sum()),
        data=name,
    )


def score_validation(model: nn.Module, device: str = "cpu") -> PoseScore:
    """Return the model's score on the shipped synthetic validation set (300 pictures)."""
    return score(model, load_data(VALIDATION_FILE), name=SYNTHETIC, device=device)


def score_coco(
    model: nn.Module, annotations_json: str | Path, images_dir: str | Path, device: str = "cpu"
) -> PoseScore:
    """Return the model's score on the people of a COCO keypoint annotation file. Needs the extra ``coco``.

    Each annotated person (not a crowd, at least one keypoint) is one square crop, see `pose_demo.coco`.
    Raises InputError when a file or a package is missing.
    """
    from pose_demo.coco import load_coco

    side = INPUT_SHAPE[1]
    return score(
        model, load_coco(annotations_json, images_dir, side), name=str(annotations_json), device=device
    )
