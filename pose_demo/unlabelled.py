"""Pictures without labels for the pose student: shipped cut-outs of the kind it was trained on, in new surroundings.

They are what a user has who kept the pictures but not the labels. The scored validation set shares neither people nor
pictures with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pose_demo.files import read_arrays, write_whole
from pose_demo.people import People
from pose_demo.scene import compose
from pose_demo.score import normalise
from pose_demo.skeleton import KEYPOINTS

CUT_OUTS_FILE = Path(__file__).parent / "data" / "cut_outs.npz"
SEED = 4_000_000
"""Of the surroundings; the training's pictures have seeds below, one for each step."""
_AT_ONCE = 32


def unlabelled_inputs(count: int, seed: int = SEED) -> torch.Tensor:
    """Return (count, 3, 128, 128) inputs of the student, in [-1, 127/128]; the same for the same seed."""
    cut_outs = load_cut_outs()
    people = People(cut_outs, torch.zeros(len(cut_outs), len(KEYPOINTS), 3))
    generator = torch.Generator().manual_seed(seed)
    who = torch.arange(count) % len(cut_outs)
    return torch.cat([normalise(compose(people, part, generator).images) for part in who.split(_AT_ONCE)])


def save_cut_outs(path: Path, rgba: torch.Tensor) -> None:
    """Write cut-outs (N, 4, 128, 128) uint8 with 5 of their 8 bits, as differences along the rows, which pack smaller."""
    few = rgba.cpu().numpy() >> 3
    differences = np.diff(few, axis=-1, prepend=np.zeros_like(few[..., :1]))  # wraps around in uint8
    arrays: dict[str, Any] = {"cut_out_differences": differences}
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def load_cut_outs(path: Path = CUT_OUTS_FILE) -> torch.Tensor:
    """Read what `save_cut_outs` wrote: (N, 4, 128, 128) uint8, premultiplied. Raises InputError for other files."""
    data = read_arrays(path, "cut-outs file", ("cut_out_differences",), "Install torchthin again.")
    few = np.cumsum(data["cut_out_differences"], axis=-1, dtype=np.uint8)
    return torch.from_numpy(few << 3 | few >> 2)
