"""Pictures without labels: what they hold, that they follow from the seed, and that none of them is scored."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pose_demo.calibration import CUT_OUTS_FILE, SEED, calibration_inputs, load_cut_outs, save_cut_outs
from pose_demo.generate import TRAINING_SEED, VALIDATION_SEED
from pose_demo.score import normalise
from pose_demo.train import TrainConfig
from pose_demo.validation import load_data
from torchthin.errors import InputError


def test_the_shipped_cut_outs_show_people() -> None:
    cut_outs = load_cut_outs()
    assert CUT_OUTS_FILE.stat().st_size < 1.5e6
    assert cut_outs.shape[1:] == (4, 128, 128)
    assert cut_outs.dtype == torch.uint8
    cover = cut_outs[:, 3].float() / 255
    assert ((cover > 0.9).float().mean((1, 2)) > 0.02).all()  # somebody is there
    assert (cover[:, [0, -1]][:, :, [0, -1]] == 0).all()  # the corners are not
    assert (cut_outs[:, :3] <= cut_outs[:, 3:].int() + 8).all()  # premultiplied, to the bits that are kept
    assert len(torch.unique(cut_outs.flatten(1), dim=0)) == len(cut_outs)


def test_inputs_are_the_students_and_follow_from_the_seed() -> None:
    inputs = calibration_inputs(5)
    assert inputs.shape == (5, 3, 128, 128)
    assert inputs.dtype == torch.float32
    assert inputs.min() >= -1
    assert inputs.max() <= 127 / 128
    assert torch.equal(inputs, calibration_inputs(5))
    assert not torch.equal(inputs, calibration_inputs(5, seed=SEED + 1))
    assert inputs.flatten(1).std(1).min() > 0.02


def test_the_pictures_are_neither_scored_nor_a_step_of_the_training() -> None:
    scored = normalise(torch.from_numpy(load_data().images)).flatten(1)
    nearest = torch.cdist(calibration_inputs(8).flatten(1), scored).min()
    assert float(nearest) > 10  # a different background alone is farther
    assert TRAINING_SEED != VALIDATION_SEED
    assert TrainConfig().seed * 10**6 + TrainConfig().steps < SEED


def test_cut_outs_come_back_with_five_bits(tmp_path: Path) -> None:
    rgba = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8), dtype=np.uint8))
    save_cut_outs(tmp_path / "a.npz", rgba)
    back = load_cut_outs(tmp_path / "a.npz")
    assert (back.int() - rgba.int()).abs().max() <= 7
    assert torch.equal(back >> 3, rgba >> 3)
    assert {int(value) for value in back[(rgba < 8) | (rgba >= 248)]} <= {0, 255}


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_cut_outs(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(InputError, match="must hold"):
        load_cut_outs(tmp_path / "other.npz")
