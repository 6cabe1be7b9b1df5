import pytest
import torch

from pose_demo.skeleton import KEYPOINTS, LIMBS
from pose_demo.targets import heatmap_targets, paf_targets

NOSE, NECK, RIGHT_SHOULDER = (KEYPOINTS.index(name) for name in ("nose", "neck", "right_shoulder"))


def one_person(**places: tuple[float, float]) -> torch.Tensor:
    keypoints = torch.zeros(1, 1, 18, 3)
    for name, (x, y) in places.items():
        keypoints[0, 0, KEYPOINTS.index(name)] = torch.tensor([x, y, 2.0])
    return keypoints


def test_heatmap_peaks_at_the_cell_of_the_point() -> None:
    maps = heatmap_targets(one_person(nose=(44.0, 84.0)))  # the centre of cell x 5, y 10
    assert maps.shape == (1, 19, 16, 16)
    assert maps[0, NOSE, 10, 5] == 1
    assert maps[0, NOSE].argmax() == 10 * 16 + 5
    # one cell to the side: 8 pixels, sigma 7
    assert maps[0, NOSE, 10, 6].item() == pytest.approx(torch.tensor(-64 / 98).exp().item())
    assert maps[0, NECK].abs().max() == 0
    torch.testing.assert_close(maps[0, 18], 1 - maps[0, NOSE])


def test_two_people_are_joined_by_the_maximum() -> None:
    first, second = one_person(nose=(20.0, 20.0)), one_person(nose=(100.0, 60.0))
    both = heatmap_targets(torch.cat([first, second], 1))
    torch.testing.assert_close(
        both[:, NOSE], torch.maximum(heatmap_targets(first), heatmap_targets(second))[:, NOSE]
    )


def test_absent_points_leave_no_mark() -> None:
    keypoints = one_person(nose=(20.0, 20.0))
    keypoints[..., 2] = 0
    maps = heatmap_targets(keypoints)
    assert maps[:, :18].abs().max() == 0
    assert (maps[:, 18] == 1).all()


def test_part_affinity_field_points_along_the_limb() -> None:
    fields = paf_targets(one_person(neck=(20.0, 60.0), right_shoulder=(80.0, 60.0)))
    assert fields.shape == (1, 38, 16, 16)
    limb = LIMBS.index((NECK, RIGHT_SHOULDER))
    x, y = fields[0, 2 * limb], fields[0, 2 * limb + 1]
    assert y.abs().max() == 0
    rows, columns = x.nonzero(as_tuple=True)
    assert set(rows.tolist()) == {6, 7, 8}  # cell centres 52, 60 and 68: within 8 pixels of the axis
    assert (columns.min(), columns.max()) == (2, 10)
    assert set(x[x != 0].tolist()) == {1.0}
    others = fields.clone()
    others[0, 2 * limb] = 0
    assert others.abs().max() == 0


def test_a_limb_needs_both_its_ends() -> None:
    assert paf_targets(one_person(neck=(20.0, 60.0))).abs().max() == 0
