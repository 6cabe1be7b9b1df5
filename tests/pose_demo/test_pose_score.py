import numpy as np
import pytest
import torch
from torch import nn

from pose_demo.score import decode, normalise, predict, score, score_keypoints
from pose_demo.skeleton import KEYPOINTS, NECK
from pose_demo.targets import heatmap_targets
from pose_demo.validation import PoseData
from torchthin.errors import InputError

NOSE, HIP = KEYPOINTS.index("nose"), KEYPOINTS.index("left_hip")


def random_keypoints(people: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    places = rng.uniform(12, 116, (people, 18, 2))
    return np.concatenate([places, np.full((people, 18, 1), 2.0)], -1).astype(np.float32)


def data_of(keypoints: np.ndarray) -> PoseData:
    count = len(keypoints)
    boxes = np.tile(np.array([0, 0, 80, 100], dtype=np.float32), (count, 1))
    return PoseData(
        np.zeros((count, 3, 128, 128), np.uint8), keypoints, boxes, np.full(count, 2500.0, np.float32)
    )


def test_input_is_minus_one_to_127_over_128() -> None:
    assert normalise(torch.tensor([0, 128, 255], dtype=torch.uint8)).tolist() == [-1.0, 0.0, 127 / 128]


def test_decoding_a_gaussian_gives_its_centre_below_the_cell_size() -> None:
    keypoints = random_keypoints(20)
    found = decode(heatmap_targets(torch.from_numpy(keypoints)[:, None]))
    assert np.abs(found[..., :2].numpy() - keypoints[..., :2]).max() < 0.01
    assert found[..., 2].min() > 0.7


def test_the_box_chooses_between_people() -> None:
    first, second = random_keypoints(1), random_keypoints(1)
    first[..., 0], second[..., 0] = 30.0, 100.0
    maps = heatmap_targets(torch.from_numpy(np.stack([first, second], 1)))
    maps[:, :, :, 9:] *= 0.9  # the second person answers less strongly
    whole = decode(maps)
    left, right = (decode(maps, torch.tensor([[x, 0.0, 30.0, 128.0]])) for x in (15.0, 85.0))
    assert whole[0, NOSE, 0].item() == pytest.approx(30, abs=0.1)
    assert left[0, NOSE, 0].item() == pytest.approx(30, abs=0.1)
    assert right[0, NOSE, 0].item() == pytest.approx(100, abs=0.1)


def test_a_box_outside_or_thinner_than_a_cell_still_gives_a_place() -> None:
    for box in ([200.0, 200.0, 5.0, 5.0], [-50.0, -50.0, 5.0, 5.0], [64.5, 64.5, 0.1, 0.1]):
        found = decode(torch.rand(1, 19, 16, 16), torch.tensor([box]))
        assert torch.isfinite(found).all()


def test_perfect_answers_score_one() -> None:
    data = data_of(random_keypoints(4))
    result = score_keypoints(data.keypoints, data, name="here")
    assert (result.pck_01, result.pck_02, result.oks) == (1.0, 1.0, 1.0)
    assert (result.people, result.keypoints, result.data) == (4, 72, "here")


def test_pck_counts_distances_in_shares_of_the_longer_side() -> None:
    data = data_of(random_keypoints(1))
    found = data.keypoints.copy()
    found[0, :6, 0] += 9.9  # within 0.1 of 100 pixels
    found[0, 6:12, 0] += 19.9
    found[0, 12:, 0] += 20.1
    result = score_keypoints(found, data, name="here")
    assert result.pck_01 == pytest.approx(6 / 18)
    assert result.pck_02 == pytest.approx(12 / 18)


def test_oks_is_cocos_formula_without_the_neck() -> None:
    data = data_of(random_keypoints(2))
    data.keypoints[..., 2] = 0
    data.keypoints[0, [NOSE, HIP, NECK], 2] = (2, 1, 2)
    data.keypoints[1, NOSE, 2] = 2
    found = data.keypoints.copy()
    found[0, HIP, :2] += (3.0, 4.0)
    found[0, NECK, 0] += 50
    expected = np.exp(-25 / (2 * 2500.0 * (2 * 0.107) ** 2))
    result = score_keypoints(found, data, name="here")
    assert result.oks == pytest.approx(((1 + expected) / 2 + 1) / 2)
    assert result.keypoints == 4


def test_broken_answers_count_as_missed() -> None:
    data = data_of(random_keypoints(1))
    result = score_keypoints(np.full_like(data.keypoints, np.nan), data, name="here")
    assert (result.pck_01, result.pck_02, result.oks) == (0.0, 0.0, 0.0)


class Painter(nn.Module):
    """Answers with the heatmaps it was given, and remembers its inputs."""

    def __init__(self, keypoints: np.ndarray) -> None:
        super().__init__()
        self.maps = heatmap_targets(torch.from_numpy(keypoints)[:, None])
        self.seen: list[tuple[tuple[int, ...], float, bool]] = []

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.seen.append((tuple(images.shape), images.max().item(), self.training))
        start = sum(shape[0] for shape, *_ in self.seen[:-1])
        return [self.maps[start : start + len(images)], torch.zeros(len(images), 38, 16, 16)]


def test_score_runs_in_batches_and_puts_the_training_flag_back() -> None:
    data = data_of(random_keypoints(5))
    data.boxes[:] = (0, 0, 128, 128)
    model = Painter(data.keypoints)
    model.train()
    result = score(model, data, name="here", batch_size=2)
    assert [shape for shape, *_ in model.seen] == [(2, 3, 128, 128), (2, 3, 128, 128), (1, 3, 128, 128)]
    assert not any(training for *_, training in model.seen)
    assert model.training
    assert result.pck_01 == 1.0
    assert result.oks > 0.999


def test_models_that_answer_something_else_are_refused() -> None:
    images, boxes = np.zeros((1, 3, 128, 128), np.uint8), np.array([[0, 0, 128, 128]], np.float32)
    with pytest.raises(InputError, match="must return"):
        predict(nn.Conv2d(3, 4, 1), images, boxes)


def test_nobody_to_score_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one person"):
        score(nn.Identity(), data_of(random_keypoints(0)), name="nothing")
