"""The renderer and the poses, on bodies small enough to check by hand; anny itself is not needed."""

import sys

import numpy as np
import pytest
import torch

from pose_demo import body, generate, people, pose, render
from pose_demo.appearance import PARTS, anatomy_of
from pose_demo.body import BONES, PARENTS, Bodies
from pose_demo.skeleton import COCO_KEYPOINTS, KEYPOINTS
from torchthin.errors import InputError

# Where the bones of a plain standing figure start, left side: x to the left, y back, z up.
_FIGURE = {
    "root": (0, 0, 0.07),
    "spine05": (0, 0, 0.08),
    "spine03": (0, 0, 0.2),
    "spine01": (0, 0, 0.4),
    "neck01": (0, 0, 0.55),
    "head": (0, 0, 0.65),
    "clavicle": (0.03, 0, 0.5),
    "upperarm01": (0.17, 0, 0.5),
    "lowerarm01": (0.31, 0, 0.35),
    "wrist": (0.42, -0.15, 0.25),
    "upperleg01": (0.1, 0, 0.05),
    "lowerleg01": (0.12, 0, -0.37),
    "foot": (0.14, 0, -0.75),
}
_JOINTS = {"shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist"}
_JOINTS |= {"hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot"}


def figure_heads() -> torch.Tensor:
    places = []
    for bone in BONES:
        x, y, z = _FIGURE[bone.split(".")[0]]
        places.append((-x if bone.endswith(".R") else x, y, z))
    return torch.tensor(places)


def block_figure() -> Bodies:
    """Return one body: a cube around the start of each bone, and two small ones for the eyes."""
    heads = figure_heads()
    corners = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]).float()
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    eyes = torch.tensor([[0.03, -0.08, 0.67], [-0.03, -0.08, 0.67]])
    centres = torch.cat([heads, eyes])
    sizes = torch.tensor([0.07] * len(heads) + [0.01] * 2)
    vertices = (centres[:, None] + corners * sizes[:, None, None]).reshape(1, -1, 3)
    owners = torch.arange(len(centres)).clamp_max(len(heads))
    owners[len(heads) :] = BONES.index("head")
    weights = torch.nn.functional.one_hot(owners.repeat_interleave(8), len(BONES)).float()
    regressor = torch.zeros(17, vertices.shape[1])
    for row, name in enumerate(COCO_KEYPOINTS):
        side, _, joint = name.partition("_")
        bone = f"{_JOINTS[joint]}.{side[0].upper()}" if joint in _JOINTS else "head"
        at = BONES.index(bone)
        regressor[row, at * 8 : at * 8 + 8] = 1 / 8
    is_eye = (torch.arange(len(centres)) >= len(heads)).float().repeat_interleave(8)
    cubes = (faces + torch.arange(len(centres))[:, None, None] * 8).reshape(-1, 3)
    return Bodies(vertices, heads[None], weights, cubes, regressor, is_eye)


def test_parents_come_before_children() -> None:
    assert all(parent < bone for bone, parent in enumerate(PARENTS))
    assert BONES[PARENTS[BONES.index("lowerarm01.R")]] == "upperarm01.R"


def test_every_bone_follows_the_nearest_moving_one() -> None:
    labels = ["root", "pelvis.L", "upperleg01.L", "upperleg02.L", "toe1-1.L"]
    assert [BONES[i] for i in body._owners(labels, [-1, 0, 1, 2, 3])] == ["root"] * 2 + ["upperleg01.L"] * 3


def test_missing_anny_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(InputError, match=r"pip install 'torchthin\[pose-data\]'"):
        body.load_bodies(1, 0)


def test_no_rotation_only_puts_the_root_at_the_origin() -> None:
    own = torch.eye(3).expand(1, len(BONES), 3, 3)
    transforms = pose.bone_transforms(figure_heads()[None], own)
    still = torch.cat([torch.eye(3), -figure_heads()[0][:, None]], 1).expand_as(transforms)
    torch.testing.assert_close(transforms, still)


def test_a_bent_knee_takes_the_foot_back_and_leaves_the_hip() -> None:
    heads = figure_heads()[None]
    own = torch.eye(3).repeat(1, len(BONES), 1, 1)
    own[0, BONES.index("lowerleg01.L")] = pose.axis_rotation((1.0, 0.0, 0.0), torch.tensor([90.0]))[0]
    moved = pose.move(pose.bone_transforms(heads, own), heads) + heads[:, :1]
    foot, knee = BONES.index("foot.L"), BONES.index("lowerleg01.L")
    torch.testing.assert_close(moved[0, knee], heads[0, knee])
    torch.testing.assert_close(moved[0, foot], torch.tensor([0.14, 0.38, -0.37]))


def test_swing_turns_one_direction_into_another() -> None:
    torch.manual_seed(0)
    start, end = torch.nn.functional.normalize(torch.randn(2, 50, 3), dim=-1)
    rotation = pose.swing(start, end)
    torch.testing.assert_close((rotation @ start[..., None])[..., 0], end, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50))


def test_random_poses_are_rotations_and_keep_the_limbs_long() -> None:
    heads = figure_heads().expand(200, -1, -1)
    own = pose.random_rotations(heads, torch.Generator().manual_seed(0))
    torch.testing.assert_close(own @ own.transpose(-1, -2), torch.eye(3).expand_as(own), rtol=0, atol=1e-5)
    moved = pose.move(pose.bone_transforms(heads, own), heads)
    for bone, parent in enumerate(PARENTS[1:], 1):
        length = (moved[:, bone] - moved[:, parent]).norm(dim=-1)
        expected = (heads[0, bone] - heads[0, parent]).norm().expand(200)
        torch.testing.assert_close(length, expected, rtol=1e-4, atol=1e-5)


def test_knees_and_elbows_bend_one_way_only() -> None:
    heads = figure_heads().expand(500, -1, -1)
    own = pose.random_rotations(heads, torch.Generator().manual_seed(0))
    knee = own[:, BONES.index("lowerleg01.L")]
    assert (torch.atan2(knee[:, 2, 1], knee[:, 1, 1]) > -1e-4).all()
    moved = pose.move(pose.bone_transforms(heads, own), heads)
    shoulder, elbow, wrist = (moved[:, BONES.index(f"{b}.L")] for b in ("upperarm01", "lowerarm01", "wrist"))
    bend = torch.rad2deg(torch.acos(torch.cosine_similarity(elbow - shoulder, wrist - elbow, dim=-1)))
    assert 2 < bend.min() < 10
    assert 120 < bend.max() < 141


def test_the_nearer_point_wins() -> None:
    places = torch.tensor([[[4.0, 4.0], [4.0, 4.0], [1.0, 1.0]]])
    depth = torch.tensor([[2.0, 1.0, 1.0]])
    colours = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]])
    seen = torch.tensor([[True, True, False]])
    rgba, buffer = render.splat(places, depth, colours, seen, 8)
    assert rgba.shape == (1, 4, 8, 8)
    assert rgba[0, 0].max() == 0  # red is behind
    assert rgba[0, 2].max() == 0  # blue looks away
    assert rgba[0, 1].sum() == rgba[0, 3].sum() == 1  # four of the quarter pixels around (4, 4)
    assert buffer[0, 7:9, 7:9].flatten().tolist() == [1.0] * 4
    assert torch.isinf(buffer).sum() == 16 * 16 - 4


def test_small_holes_are_closed_and_edges_stay() -> None:
    rgba = torch.zeros(1, 4, 8, 8)
    rgba[:, :, 2:6, 2:6] = 1
    rgba[:, :, 3, 3] = 0
    closed = render._close_holes(rgba)
    expected = torch.zeros(1, 4, 8, 8)
    expected[:, :, 2:6, 2:6] = 1
    torch.testing.assert_close(closed, expected)


def test_points_lie_on_their_triangle_in_proportion_to_area() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3.0]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3]])
    points = render.scatter_points(vertices, faces, 4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(points.shares.sum(1), torch.ones(4000))
    assert points.shares.min() >= 0
    placed = render.on_points(vertices[None], points)[0]
    assert (placed[:, 2] > 0).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_anatomy_finds_parts_and_places_along_limbs() -> None:
    bodies = block_figure()
    anatomy = anatomy_of(bodies)
    wrist, elbow = (BONES.index(f"{name}.L") * 8 for name in ("wrist", "lowerarm01"))
    assert PARTS[anatomy.part[wrist]] == "hand"
    assert 1.0 <= anatomy.along[elbow] <= 2.0
    cube_middles = anatomy.points.reshape(-1, 8, 3).mean(1).repeat_interleave(8, 0)
    assert (anatomy.normals * (anatomy.points - cube_middles)).sum(-1).min() > 0  # they point outwards


def test_rendered_keypoints_lie_on_the_figure() -> None:
    bodies = block_figure()
    made = people.render_people(bodies, anatomy_of(bodies), 8, torch.Generator().manual_seed(0))
    assert made.rgba.shape == (8, 4, 128, 128)
    assert made.rgba.dtype == torch.uint8
    assert (made.rgba[:, :3] <= made.rgba[:, 3:]).all()  # premultiplied
    assert set(made.keypoints[..., 2].unique().tolist()) == {1.0, 2.0}
    on_body = 0
    for cover, keypoints in zip(made.rgba[:, 3], made.keypoints, strict=True):
        for x, y, _ in keypoints[[k for k, name in enumerate(KEYPOINTS) if name != "neck"]].tolist():
            on_body += int(cover[int(y), int(x)] > 0)
    assert on_body == 8 * 17  # every joint is the middle of a cube


def test_the_same_seed_makes_the_same_people_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "load_bodies", lambda count, seed: block_figure())
    monkeypatch.setattr(generate, "BATCH", 3)
    monkeypatch.setattr(people, "POINTS", 4000)
    first, again = (generate.make_people(3, seed=5, identities=1) for _ in range(2))
    assert len(first.rgba) == 3
    assert torch.equal(first.rgba, again.rgba)
    assert torch.equal(first.keypoints, again.keypoints)
    assert not torch.equal(first.rgba, generate.make_people(3, seed=6, identities=1).rgba)
    data = generate.make_validation(4, seed=5, identities=1)
    assert data.images.shape == (4, 3, 128, 128)
    assert ((data.keypoints[..., 2] > 0).sum(1) >= 8).all()
    assert set(np.unique(data.images & 7)) == {4}
