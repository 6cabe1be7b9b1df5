"""Pictures with one or two people, composed from cut-outs: placed, lit, partly hidden, blurred and noisy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pose_demo.appearance import uniform
from pose_demo.background import backgrounds, blotches, draw_shape
from pose_demo.people import SIDE, People
from pose_demo.skeleton import MIRROR

SECOND_PERSON = 0.2
OCCLUDED = 0.25


@dataclass(frozen=True)
class Scenes:
    """B pictures: `images` (B, 3, 128, 128) uint8; `keypoints` (B, 2, 18, 3) of the main and a second person.

    `boxes` (B, 4) x, y, width, height and `areas` (B,), pixels, of the main person's silhouette inside the
    picture. A person who is not there has visibility 0 everywhere.
    """

    images: torch.Tensor
    keypoints: torch.Tensor
    boxes: torch.Tensor
    areas: torch.Tensor


@dataclass(frozen=True)
class _Layer:
    rgb: torch.Tensor
    cover: torch.Tensor
    keypoints: torch.Tensor


@torch.no_grad()
def compose(people: People, main: torch.Tensor, generator: torch.Generator) -> Scenes:
    """Return one scene for each index (B,) of `main` into `people`; second persons are drawn by chance."""
    count = len(main)
    second = torch.randint(len(people.rgba), (count,), generator=generator, device=generator.device)
    other_there = uniform((count, 1, 1, 1), 0, 1, generator) < SECOND_PERSON
    first_layer = _place(people, main, _main_placement(count, generator), generator)
    other = _place(people, second, _side_placement(count, generator), generator)
    other = _Layer(other.rgb * other_there, other.cover * other_there, other.keypoints * other_there[:, 0])
    in_front = uniform((count, 1, 1, 1), 0, 1, generator) < 0.3
    picture = backgrounds(count, SIDE, generator)
    picture = torch.where(
        in_front, _over(_over(picture, first_layer), other), _over(_over(picture, other), first_layer)
    )
    picture, hidden = _hide(picture, generator)
    blocked = torch.where(in_front, 1 - (1 - hidden) * (1 - other.cover), hidden)
    blocked_other = torch.where(in_front, hidden, 1 - (1 - hidden) * (1 - first_layer.cover))
    keypoints = torch.stack(
        [_cover_up(first_layer.keypoints, blocked), _cover_up(other.keypoints, blocked_other)], 1
    )
    boxes, areas = _extent(first_layer.cover[:, 0] > 0.5)
    return Scenes(_camera(picture, generator), keypoints, boxes, areas)


def _main_placement(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale (B,) and shift (B, 2) in pixels; a tenth are close-ups that reach out of the picture."""
    scale = uniform((count,), 0.65, 1.12, generator)
    close = uniform((count,), 0, 1, generator) < 0.12
    scale = torch.where(close, uniform((count,), 1.1, 1.7, generator), scale)
    slack = (1.1 - scale).abs() * 48 + 6
    return scale, uniform((count, 2), -1, 1, generator) * slack[:, None]


def _side_placement(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    shift = uniform((count, 2), -1, 1, generator)
    aside = shift[:, 0].sign() * (28 + 34 * shift[:, 0].abs())
    return uniform((count,), 0.4, 1.0, generator), torch.stack([aside, shift[:, 1] * 25], 1)


def _place(
    people: People,
    index: torch.Tensor,
    placement: tuple[torch.Tensor, torch.Tensor],
    generator: torch.Generator,
) -> _Layer:
    """Return cut-outs turned, mirrored by chance, scaled and shifted, with their keypoints."""
    scale, shift = placement
    count = len(index)
    angle = torch.deg2rad(
        9 * torch.randn(count, generator=generator, device=generator.device).clamp(-2.5, 2.5)
    )
    flip = torch.where(uniform((count,), 0, 1, generator) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    forward = torch.stack([cos * flip, -sin, sin * flip, cos], -1).reshape(-1, 2, 2)
    inverse = torch.linalg.inv(forward)
    offset = -(inverse @ shift[..., None]) * 2 / SIDE
    grid = F.affine_grid(torch.cat([inverse, offset], -1), [count, 4, SIDE, SIDE], align_corners=False)
    source = people.rgba[index].float() / 255
    warped = F.grid_sample(source, grid, align_corners=False)
    keypoints = people.keypoints[index]
    mirrored = keypoints[:, list(MIRROR)]
    keypoints = torch.where(flip[:, None, None] < 0, mirrored, keypoints)
    positions = (keypoints[..., :2] - SIDE / 2) @ forward.transpose(1, 2) + SIDE / 2 + shift[:, None]
    inside = ((positions >= 0) & (positions < SIDE)).all(-1)
    gain = uniform((count, 1, 1, 1), 0.7, 1.25, generator) * uniform((count, 3, 1, 1), 0.9, 1.1, generator)
    rgb = torch.minimum(warped[:, :3] * gain, warped[:, 3:])
    return _Layer(rgb, warped[:, 3:], torch.cat([positions, (keypoints[..., 2] * inside)[..., None]], -1))


def _over(picture: torch.Tensor, layer: _Layer) -> torch.Tensor:
    return picture * (1 - layer.cover) + layer.rgb


def _hide(picture: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Put up to two things in front of everything; return pictures and what they cover (B, 1, S, S)."""
    covered = torch.zeros_like(picture[:, :1])
    for chance in (OCCLUDED, OCCLUDED / 3):
        picture, cover = draw_shape(picture, chance, generator, size=(0.05, 0.22))
        covered = torch.maximum(covered, cover)
    return picture, covered


def _cover_up(keypoints: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    """Lower the visibility of keypoints (B, 18, 3) from 2 to 1 where `cover` (B, 1, S, S) hides them."""
    spot = keypoints[..., :2].long().clamp(0, SIDE - 1)
    picture = torch.arange(len(keypoints), device=keypoints.device)[:, None]
    hidden = cover[picture, 0, spot[..., 1], spot[..., 0]] > 0.5
    seen = torch.where(hidden, keypoints[..., 2].clamp_max(1), keypoints[..., 2])
    return torch.cat([keypoints[..., :2], seen[..., None]], -1)


def _extent(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return boxes (B, 4) x, y, width, height and areas (B,) of masks (B, S, S)."""
    bounds = []
    for axis in (1, 2):
        line = mask.any(axis).float()
        low = line.argmax(1)
        high = line.shape[1] - line.flip(1).argmax(1)
        bounds.append((low, high - low))
    (x, width), (y, height) = bounds
    return torch.stack([x, y, width, height], 1).float(), mask.sum((1, 2)).float()


def _camera(picture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return uint8 pictures with exposure, contrast, blur and sensor noise."""
    count = len(picture)
    contrast, light = (
        uniform((count, 1, 1, 1), 0.7, 1.25, generator),
        uniform((count, 1, 1, 1), -0.12, 0.12, generator),
    )
    picture = (picture - 0.5) * contrast + 0.5 + light
    picture = picture + 0.06 * blotches(count, 1, SIDE, generator)
    soft = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    picture = torch.lerp(picture, soft, uniform((count, 1, 1, 1), -0.3, 0.9, generator).clamp_min(0))
    noise = torch.randn(picture.shape, generator=generator, device=picture.device)
    picture = picture + noise * 0.025 * uniform((count, 1, 1, 1), 0, 1, generator) ** 2
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)
