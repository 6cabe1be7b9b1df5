"""Rendered people: cut-outs with exact keypoints, from which `scene` composes every picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pose_demo import pose, render
from pose_demo.appearance import Anatomy, dress
from pose_demo.body import Bodies
from pose_demo.skeleton import COCO_KEYPOINTS, from_coco

SIDE = 128
POINTS = 80_000
LONGER_SIDE = 112.0
# How deep behind the visible surface a keypoint may lie and still count as visible, metres, in COCO's order.
_DEPTH_OF = {"eye": 0.04, "nose": 0.04, "ear": 0.06, "shoulder": 0.13, "elbow": 0.10, "wrist": 0.08}
_DEPTH_OF |= {"hip": 0.20, "knee": 0.12, "ankle": 0.11}
_TOLERANCE = tuple(_DEPTH_OF[name.split("_")[-1]] for name in COCO_KEYPOINTS)


@dataclass(frozen=True)
class People:
    """N cut-outs: `rgba` (N, 4, 128, 128) uint8 premultiplied, `keypoints` (N, 18, 3) float32 in pixels."""

    rgba: torch.Tensor
    keypoints: torch.Tensor


@torch.no_grad()
def render_people(bodies: Bodies, anatomy: Anatomy, count: int, generator: torch.Generator) -> People:
    """Return `count` random people; the same generator state gives the same people on the same device."""
    who = torch.randint(len(bodies.vertices), (2, count), generator=generator, device=generator.device)
    share = torch.rand(count, 1, 1, generator=generator, device=generator.device)
    rest = torch.lerp(bodies.vertices[who[0]], bodies.vertices[who[1]], share)
    heads = torch.lerp(bodies.heads[who[0]], bodies.heads[who[1]], share)
    own = pose.random_rotations(heads, generator)
    moved = pose.vertex_transforms(bodies, pose.bone_transforms(heads, own))
    colours, thickness = dress(anatomy, bodies.eyes, count, generator)
    surface = pose.move(moved, rest + anatomy.normals * thickness[..., None])
    normals = (moved[..., :3] @ anatomy.normals[..., None])[..., 0]
    joints = bodies.regressor @ pose.move(moved, rest)
    tilt = 8 + 12 * torch.randn(count, generator=generator, device=generator.device).clamp(-2, 2.5)
    surface, normals, joints = (pose.tilt_camera(values, tilt) for values in (surface, normals, joints))
    colours = (colours * render.shade(normals, generator)).clamp(0, 1)
    distance = 2.2 + 4 * torch.rand(count, 1, generator=generator, device=generator.device)
    positions, joint_positions = _project(surface, joints, distance)
    points = render.scatter_points(anatomy.points, bodies.faces, POINTS, generator)
    depth = surface[..., 1] + distance
    vectors = render.on_points(
        torch.cat([positions, depth[..., None], colours, _facing(surface, normals, distance)], -1), points
    )
    rgba, buffer = render.splat(
        vectors[..., :2], vectors[..., 2], vectors[..., 3:6], vectors[..., 6] > 0, SIDE
    )
    seen = _visibility(joint_positions, joints[..., 1] + distance, buffer)
    keypoints = torch.cat([joint_positions, seen[..., None].float() + 1], -1)
    openpose = torch.from_numpy(from_coco(keypoints.cpu().numpy())).to(keypoints.device)
    return People((rgba * 255).round().to(torch.uint8), openpose)


def _facing(surface: torch.Tensor, normals: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Return (B, V, 1): positive where the surface faces a camera `distance` (B, 1) in front of the body."""
    eye = torch.zeros_like(surface)
    eye[..., 1] = -distance
    return ((eye - surface) * normals).sum(-1, keepdim=True)


def _project(
    surface: torch.Tensor, joints: torch.Tensor, distance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixel positions of surface (B, V, 3) and joints (B, K, 3), centred and as large as fits."""

    def flat(points: torch.Tensor) -> torch.Tensor:
        return torch.stack([points[..., 0], -points[..., 2]], -1) / (points[..., 1] + distance)[..., None]

    flat_surface = flat(surface)
    low, high = flat_surface.amin(1, keepdim=True), flat_surface.amax(1, keepdim=True)
    zoom = LONGER_SIDE / (high - low).amax(-1, keepdim=True)
    return tuple((flat(points) - (low + high) / 2) * zoom + SIDE / 2 for points in (surface, joints))  # type: ignore[return-value]


def _visibility(positions: torch.Tensor, depth: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """Return (B, 17) whether nothing lies in front of each joint (by more than the joint's own depth)."""
    side = buffer.shape[-1]
    spot = (positions * render.SUPERSAMPLING).long().clamp(0, side - 1)
    picture = torch.arange(len(positions), device=positions.device)[:, None]
    front = buffer[picture, spot[..., 1], spot[..., 0]]
    tolerance = torch.tensor(_TOLERANCE, device=positions.device)
    return torch.isinf(front) | (depth - front < tolerance)
