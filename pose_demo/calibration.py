"""Calibration data for the pose student: shipped cut-outs of the kind it was trained on, in new surroundings, without labels.

They are what a user has who kept the pictures but not the labels. The scored validation set shares neither people nor
pictures with them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pose_demo.files import from_row_differences, read_arrays, row_differences, write_arrays
from pose_demo.people import People
from pose_demo.scene import compose
from pose_demo.score import normalise
from pose_demo.skeleton import KEYPOINTS

CUT_OUTS_FILE = Path(__file__).parent / "data" / "cut_outs.npz"
SEED = 4_000_000
"""Of the surroundings; the training's pictures have lower seeds, one for each step."""
_BATCH = 32


def calibration_inputs(count: int, seed: int = SEED) -> torch.Tensor:
    """Return (count, 3, 128, 128) inputs of the student, in [-1, 127/128]; the same for the same seed."""
    cut_outs = load_cut_outs()
    people = People(cut_outs, torch.zeros(len(cut_outs), len(KEYPOINTS), 3))
    generator = torch.Generator().manual_seed(seed)
    who = torch.arange(count) % len(cut_outs)
    return torch.cat([normalise(compose(people, part, generator).images) for part in who.split(_BATCH)])


def save_cut_outs(path: Path, rgba: torch.Tensor) -> None:
    """Write cut-outs (N, 4, 128, 128) uint8 with 5 of their 8 bits."""
    write_arrays(path, {"cut_out_differences": row_differences(rgba.cpu().numpy() >> 3)})


def load_cut_outs(path: Path = CUT_OUTS_FILE) -> torch.Tensor:
    """Read what `save_cut_outs` wrote: (N, 4, 128, 128) uint8, premultiplied. Raises InputError for other files."""
    data = read_arrays(path, "cut-outs file", ("cut_out_differences",), "Restore it from the repository.")
    five_bits = from_row_differences(data["cut_out_differences"])
    return torch.from_numpy(five_bits << 3 | five_bits >> 2)
