"""The shipped validation set and the shipped student: what they hold, and that the recorded score is true."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pose_demo.score import SYNTHETIC, score_validation
from pose_demo.student import STUDENT_FILE, load_student
from pose_demo.validation import VALIDATION_FILE, PoseData, load_data, save_data
from torchthin.errors import InputError


def test_the_shipped_set_is_300_pictures_of_labelled_people() -> None:
    data = load_data()
    assert VALIDATION_FILE.stat().st_size < 6e6
    assert data.images.shape == (300, 3, 128, 128)
    assert data.images.dtype == np.uint8
    assert data.keypoints.shape == (300, 18, 3)
    assert set(np.unique(data.keypoints[..., 2])) == {0, 1, 2}
    labelled = data.keypoints[data.keypoints[..., 2] > 0]
    assert labelled[:, :2].min() >= 0
    assert labelled[:, :2].max() < 128
    assert ((data.keypoints[..., 2] > 0).sum(1) >= 8).all()
    assert (data.boxes[:, 2:] > 8).all()
    assert (data.boxes[:, :2] + data.boxes[:, 2:] <= 128).all()
    assert (data.areas > 100).all()
    assert (data.areas <= data.boxes[:, 2] * data.boxes[:, 3]).all()


def test_keypoints_lie_in_or_near_the_box() -> None:
    data = load_data()
    low, high = data.boxes[:, None, :2] - 6, data.boxes[:, None, :2] + data.boxes[:, None, 2:] + 6
    inside = ((data.keypoints[..., :2] >= low) & (data.keypoints[..., :2] <= high)).all(-1)
    assert inside[data.keypoints[..., 2] > 0].all()


def test_the_shipped_student_is_trained_and_its_recorded_score_is_true() -> None:
    contents = torch.load(STUDENT_FILE, weights_only=True)
    recorded = contents["extras"]["validation"]
    assert STUDENT_FILE.stat().st_size < 1.6e6
    assert contents["epoch"] == 0
    reached = score_validation(load_student())
    assert reached.data == SYNTHETIC == recorded["data"]
    for name in ("pck_01", "pck_02", "oks"):
        assert getattr(reached, name) == pytest.approx(recorded[name], abs=0.002), name
    assert reached.pck_02 > 0.85


def test_a_set_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = PoseData(
        rng.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8),
        rng.random((2, 18, 3), dtype=np.float32),
        rng.random((2, 4), dtype=np.float32),
        rng.random(2, dtype=np.float32),
    )
    save_data(tmp_path / "set.npz", data)
    back = load_data(tmp_path / "set.npz")
    for name in ("images", "keypoints", "boxes", "areas"):
        np.testing.assert_array_equal(getattr(back, name), getattr(data, name))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_data(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(InputError, match="must hold"):
        load_data(tmp_path / "other.npz")
