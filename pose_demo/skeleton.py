"""Names and order of keypoints and limbs: COCO's 17 points, OpenPose's 18 (with the neck), 19 limbs, sigmas.

Keypoint arrays are (..., 18, 3): x and y in pixels (the centre of pixel 0 is 0.5) and COCO's visibility:
0 not in the picture, 1 in the picture but hidden, 2 visible.
"""

from __future__ import annotations

import numpy as np

COCO_KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
KEYPOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
NECK = KEYPOINTS.index("neck")
SHOULDERS = (KEYPOINTS.index("right_shoulder"), KEYPOINTS.index("left_shoulder"))

# The limbs of OpenPose's COCO model (Cao et al. 2017), as pairs of indices into KEYPOINTS.
LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
    (2, 16),
    (5, 17),
)

# Sigmas of COCO's object keypoint similarity in COCO's order (cocodataset.org/#keypoints-eval).
COCO_SIGMAS = (
    np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], dtype=np.float64) / 1000
)


def _mirror_name(name: str) -> str:
    if name.startswith("left_"):
        return "right_" + name.removeprefix("left_")
    return "left_" + name.removeprefix("right_") if name.startswith("right_") else name


# MIRROR[k] is the keypoint that k becomes when the picture is flipped left to right.
MIRROR = tuple(KEYPOINTS.index(_mirror_name(name)) for name in KEYPOINTS)
# FROM_COCO[k] is COCO's index of our keypoint k; the neck, which COCO lacks, is left out.
FROM_COCO = {k: COCO_KEYPOINTS.index(name) for k, name in enumerate(KEYPOINTS) if name in COCO_KEYPOINTS}
# SIGMAS[k] is COCO's sigma of our keypoint k; NaN for the neck, which OKS leaves out.
SIGMAS = np.array([COCO_SIGMAS[FROM_COCO[k]] if k in FROM_COCO else np.nan for k in range(len(KEYPOINTS))])


def from_coco(keypoints: np.ndarray) -> np.ndarray:
    """Return (..., 18, 3) keypoints from COCO's (..., 17, 3).

    The neck is the middle of the shoulders, with the lower of their visibilities.
    """
    out = np.zeros((*keypoints.shape[:-2], len(KEYPOINTS), 3), dtype=np.float32)
    for ours, theirs in FROM_COCO.items():
        out[..., ours, :] = keypoints[..., theirs, :]
    shoulders = out[..., list(SHOULDERS), :]
    out[..., NECK, :2] = shoulders[..., :2].mean(-2)
    out[..., NECK, 2] = shoulders[..., 2].min(-1)
    return out
