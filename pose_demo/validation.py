"""The shipped validation set: synthetic pictures of a main person each, from ``pose_demo.generate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pose_demo.files import from_row_differences, read_arrays, row_differences, write_arrays

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
    """Write a compressed .npz file."""
    labels = {"keypoints": data.keypoints, "boxes": data.boxes, "areas": data.areas}
    write_arrays(path, {"image_differences": row_differences(data.images), **labels})


def load_data(path: Path = VALIDATION_FILE) -> PoseData:
    """Read what `save_data` wrote, by default the shipped set. Raises InputError for other files."""
    names = ("image_differences", "keypoints", "boxes", "areas")
    data = read_arrays(path, "validation set", names, "Restore it from the repository or name another file.")
    pixels = from_row_differences(data["image_differences"])
    return PoseData(pixels, data["keypoints"], data["boxes"], data["areas"])
