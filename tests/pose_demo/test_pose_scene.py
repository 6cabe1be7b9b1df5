import pytest
import torch

from pose_demo import scene
from pose_demo.background import backgrounds, draw_shape
from pose_demo.people import People
from pose_demo.skeleton import KEYPOINTS, MIRROR

WRIST = KEYPOINTS.index("left_wrist")


def dots(count: int) -> People:
    """Return people who are one white disc, with every keypoint but the other wrist at its middle."""
    y, x = torch.meshgrid(torch.arange(128.0) + 0.5, torch.arange(128.0) + 0.5, indexing="ij")
    disc = ((x - 70) ** 2 + (y - 50) ** 2 < 36).to(torch.uint8) * 255
    keypoints = torch.tensor([70.0, 50.0, 2.0]).repeat(count, 18, 1)
    keypoints[:, MIRROR[WRIST]] = torch.tensor([10.0, 120.0, 1.0])
    return People(disc.expand(count, 4, 128, 128).clone(), keypoints)


def test_keypoints_follow_the_picture_through_turns_flips_and_zooms() -> None:
    generator = torch.Generator().manual_seed(0)
    people, index = dots(40), torch.arange(40)
    layer = scene._place(people, index, scene._main_placement(40, generator), generator)
    y, x = torch.meshgrid(torch.arange(128.0) + 0.5, torch.arange(128.0) + 0.5, indexing="ij")
    mass = layer.cover[:, 0].sum((1, 2))
    middle = torch.stack([(layer.cover[:, 0] * axis).sum((1, 2)) / mass for axis in (x, y)], -1)
    nose = layer.keypoints[:, 0]
    whole = (nose[:, :2] > 12).all(1) & (nose[:, :2] < 116).all(1)
    assert whole.sum() > 20
    torch.testing.assert_close(middle[whole], nose[whole, :2], rtol=0, atol=0.2)


def test_flipping_swaps_left_and_right() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = scene._place(dots(40), torch.arange(40), (torch.ones(40), torch.zeros(40, 2)), generator)
    from_nose = (layer.keypoints[:, WRIST, :2] - layer.keypoints[:, 0, :2]).norm(dim=-1)
    flipped = from_nose > 1  # now the left wrist is the point that stood apart
    assert 8 < flipped.sum() < 32
    other = (layer.keypoints[:, MIRROR[WRIST], :2] - layer.keypoints[:, 0, :2]).norm(dim=-1)
    assert ((other > 1) != flipped).all()


def test_points_outside_the_picture_are_not_labelled() -> None:
    generator = torch.Generator().manual_seed(0)
    shift = torch.tensor([[100.0, 0.0]]).expand(4, 2)
    layer = scene._place(dots(4), torch.arange(4), (torch.ones(4), shift), generator)
    outside = ((layer.keypoints[..., :2] < 0) | (layer.keypoints[..., :2] >= 128)).any(-1)
    assert outside.any()
    assert (layer.keypoints[..., 2][outside] == 0).all()
    assert (layer.keypoints[..., 2][~outside] > 0).all()


def test_covered_points_become_hidden() -> None:
    keypoints = torch.tensor([[[10.5, 20.5, 2.0], [100.5, 20.5, 2.0], [10.5, 20.5, 0.0]]])
    cover = torch.zeros(1, 1, 128, 128)
    cover[..., :64] = 1
    assert scene._cover_up(keypoints, cover)[0, :, 2].tolist() == [1.0, 2.0, 0.0]


def test_extent_is_the_box_and_area_of_the_silhouette() -> None:
    mask = torch.zeros(1, 128, 128, dtype=torch.bool)
    mask[0, 20:50, 5:15] = True
    boxes, areas = scene._extent(mask)
    assert boxes.tolist() == [[5.0, 20.0, 10.0, 30.0]]
    assert areas.tolist() == [300.0]


def test_scenes_follow_from_the_seed() -> None:
    people = dots(6)
    first, again = (
        scene.compose(people, torch.arange(6), torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert first.images.shape == (6, 3, 128, 128)
    assert first.images.dtype == torch.uint8
    assert first.keypoints.shape == (6, 2, 18, 3)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.keypoints, again.keypoints)
    other = scene.compose(people, torch.arange(6), torch.Generator().manual_seed(4))
    assert not torch.equal(first.images, other.images)


def test_second_persons_are_there_sometimes() -> None:
    scenes = scene.compose(dots(60), torch.arange(60), torch.Generator().manual_seed(3))
    there = (scenes.keypoints[:, 1, :, 2] > 0).any(1)
    assert 3 < there.sum() < 30


def test_backgrounds_are_varied_and_in_range() -> None:
    pictures = backgrounds(12, 64, torch.Generator().manual_seed(0))
    assert pictures.shape == (12, 3, 64, 64)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert (pictures.flatten(1).std(1) > 0.01).all()
    assert pictures.flatten(1).mean(1).std() > 0.05


@pytest.mark.parametrize(("chance", "present"), [(0.0, False), (1.0, True)])
def test_shapes_cover_what_they_say(chance: float, present: bool) -> None:
    black = torch.zeros(8, 3, 64, 64)
    drawn, cover = draw_shape(black, chance, torch.Generator().manual_seed(0))
    assert bool(cover.flatten(1).any(1).all()) == present
    assert ((drawn != 0).any(1, keepdim=True) <= (cover > 0)).all()
