"""The shipped validation set: synthetic pictures of a main person each, from ``pose_demo.generate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pose_demo.files import read_arrays, write_whole

VALIDATION_FILE = Path(__file__).parent / "data" / "validation.npz"


@dataclass(frozen=True)
class PoseData:
    """N pictures with one person to find in each.

    `images` (N, 3, 128, 128) uint8; `keypoints` (N, 18, 3) float32, pixels and COCO's visibility; `boxes` (N,
    4) x, y, width, height of the person; `areas` (N,) of the person's silhouette in square pixels.
    """

    images: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray


def save_data(path: Path, data: PoseData) -> None:
    """Write a compressed .npz file; pictures are stored as differences along the rows, which pack smaller."""
    first = np.zeros_like(data.images[..., :1])
    differences = np.diff(data.images, axis=-1, prepend=first)  # wraps around in uint8
    arrays: dict[str, Any] = {
        "image_differences": differences,
        "keypoints": data.keypoints,
        "boxes": data.boxes,
        "areas": data.areas,
    }
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def load_data(path: Path = VALIDATION_FILE) -> PoseData:
    """Read what `save_data` wrote, by default the shipped set. Raises InputError for other files."""
    names = ("image_differences", "keypoints", "boxes", "areas")
    data = read_arrays(path, "validation set", names, "Install torchthin again or name another file.")
    images = np.cumsum(data["image_differences"], axis=-1, dtype=np.uint8)
    return PoseData(images, data["keypoints"], data["boxes"], data["areas"])
