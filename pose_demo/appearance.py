"""Skin, hair and clothes: a colour for every vertex of every body, and how far clothes and hair are above the skin."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from pose_demo.body import BONES, Bodies


@dataclass(frozen=True)
class Anatomy:
    """What the mean body says about each of V vertices, the same for all people.

    `part` (V,) index into PARTS; `along` (V,) position on the limb, 0 at shoulder or hip, 1 at elbow or knee, 2
    at wrist or ankle; `points` (V, 3) mean positions; `normals` (V, 3); `skull` (V, 3) position from the
    head's centre.
    """

    part: torch.Tensor
    along: torch.Tensor
    points: torch.Tensor
    normals: torch.Tensor
    skull: torch.Tensor


PARTS = ("trunk", "neck", "head", "arm", "hand", "leg", "foot")
_PART_OF = {
    "neck01": "neck",
    "head": "head",
    "upperarm01": "arm",
    "lowerarm01": "arm",
    "wrist": "hand",
    "upperleg01": "leg",
    "lowerleg01": "leg",
    "foot": "foot",
}
_LIMBS = (("upperarm01", "lowerarm01", "wrist"), ("upperleg01", "lowerleg01", "foot"))


def anatomy_of(bodies: Bodies) -> Anatomy:
    """Return the anatomy of the mean body."""
    points, heads = bodies.vertices.mean(0), bodies.heads.mean(0)
    bone = bodies.weights.argmax(1)
    names = [_PART_OF.get(name.split(".")[0], "trunk") for name in BONES]
    part = torch.tensor([PARTS.index(name) for name in names], device=bone.device)[bone]
    along = torch.zeros(len(points), device=points.device)
    for chain in _LIMBS:
        for side in "LR":
            joints = [BONES.index(f"{name}.{side}") for name in chain]
            for number, (start, end) in enumerate(pairwise(joints)):
                axis = heads[end] - heads[start]
                share = ((points - heads[start]) @ axis / axis.dot(axis)).clamp(0, 1)
                along = torch.where(bone == start, number + share, along)
    skull = points - points[part == PARTS.index("head")].mean(0)
    return Anatomy(part, along, points, mesh_normals(points, bodies.faces), skull)


def mesh_normals(points: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Return unit vertex normals (V, 3), area-weighted, of points (V, 3) and faces (F, 3)."""
    a, b, c = points[faces].unbind(1)
    face_normals = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(points)
    for corner in range(3):
        total.index_add_(0, faces[:, corner], face_normals)
    length: torch.Tensor = total.norm(dim=-1, keepdim=True)
    return total / length.clamp_min(1e-9)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """Return random numbers in [low, high), on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def random_colours(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return (count, 3) colours in [0, 1]: half of them greyish, as clothes and rooms are."""
    colours = uniform((count, 3), 0.03, 0.97, generator)
    grey = colours.mean(1, keepdim=True)
    strength = uniform((count, 1), -0.6, 1.0, generator).clamp_min(0.08)
    return grey + (colours - grey) * strength


def _skin(count: int, generator: torch.Generator) -> torch.Tensor:
    light = torch.tensor([0.96, 0.80, 0.69], device=generator.device)
    dark = torch.tensor([0.28, 0.17, 0.12], device=generator.device)
    share = uniform((count, 1), 0, 1, generator) ** 1.5
    return (light + (dark - light) * share + uniform((count, 3), -0.03, 0.03, generator)).clamp(0, 1)


def _hair_colour(count: int, generator: torch.Generator) -> torch.Tensor:
    tones = torch.tensor(
        [[0.05, 0.04, 0.04], [0.22, 0.13, 0.08], [0.45, 0.30, 0.15], [0.80, 0.66, 0.42], [0.7, 0.7, 0.7]],
        device=generator.device,
    )
    choice = torch.randint(len(tones), (count,), generator=generator, device=generator.device)
    return (tones[choice] * uniform((count, 1), 0.7, 1.2, generator)).clamp(0, 1)


def _pattern(anatomy: Anatomy, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return (count, V) shares in [0, 1] of a second colour: plain, stripes, checks or blotches."""
    frequency = uniform((count, 3, 1), 20, 140, generator)
    phase = uniform((count, 3, 1), 0, 6.3, generator)
    waves = torch.sin(frequency * anatomy.points.T + phase)  # (count, 3, V)
    across, _, up = waves.unbind(1)
    kind = uniform((count, 1), 0, 1, generator)
    share = torch.where(kind < 0.15, (up > 0.2).float(), torch.zeros_like(up))
    share = torch.where((kind >= 0.15) & (kind < 0.22), (across > 0.2).float(), share)
    share = torch.where((kind >= 0.22) & (kind < 0.32), (across * up > 0).float(), share)
    return torch.where((kind >= 0.32) & (kind < 0.45), 0.5 + 0.5 * waves.prod(1), share)


def dress(
    anatomy: Anatomy, eyes: torch.Tensor, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return colours (count, V, 3) in [0, 1] and thickness (count, V) in metres along the rest normals.

    `eyes` (V,): share of each vertex that is eyeball.
    """
    part = {name: anatomy.part == i for i, name in enumerate(PARTS)}

    def draw(low: float, high: float) -> torch.Tensor:
        return uniform((count, 1), low, high, generator)

    sleeve, leg_length, waist = draw(0.2, 2.6), draw(0.25, 3.2), draw(0.02, 0.14)
    height = anatomy.points[:, 2]
    top = part["trunk"] & (height > waist) | part["arm"] & (anatomy.along < sleeve)
    bottom = part["trunk"] & (height <= waist) | part["leg"] & (anatomy.along < leg_length)
    shoes = part["foot"] & (draw(0, 1) < 0.85)
    x, y, z = anatomy.skull.unbind(-1)
    slope = torch.deg2rad(draw(15, 65))
    hair = part["head"] & (z * slope.cos() + y * slope.sin() > draw(0.0, 0.07))
    hair = (hair | (part["neck"] & (y > 0.0) & (draw(0, 1) < 0.35))) & (draw(0, 1) < 0.93)

    colour = _skin(count, generator)[:, None].expand(-1, len(height), -1)
    face = part["head"] & ~hair & (y < -0.05)
    mouth = face & (x.abs() < 0.025) & ((z + 0.075).abs() < 0.010)
    colour = torch.where(
        mouth[..., None], colour * torch.tensor([0.8, 0.5, 0.5], device=colour.device), colour
    )
    near_eye = part["head"] & _near_eyes(anatomy, eyes)
    colour = torch.where(near_eye[None, :, None], colour * draw(0.3, 0.7)[..., None], colour)
    pattern = _pattern(anatomy, count, generator)[..., None]
    first, second = random_colours(count, generator)[:, None], random_colours(count, generator)[:, None]
    trousers = random_colours(count, generator)[:, None] * draw(0.4, 1.0)[..., None]
    trousers = torch.where(draw(0, 1)[..., None] < 0.12, first, trousers)
    layers = (
        (top, first + (second - first) * pattern),
        (bottom, trousers),
        (shoes, random_colours(count, generator)[:, None]),
        (hair, _hair_colour(count, generator)[:, None]),
    )
    thickness = torch.zeros(count, len(height), device=colour.device)
    for (mask, paint), most in zip(layers, (0.022, 0.022, 0.012, 0.045), strict=True):
        colour = torch.where(mask[..., None], paint, colour)
        thickness = torch.where(mask, draw(0.002, most), thickness)
    return colour, thickness


def _near_eyes(anatomy: Anatomy, eyes: torch.Tensor) -> torch.Tensor:
    """Return (V,) which vertices lie within 2.2 cm of an eyeball's centre."""
    near = torch.zeros(len(eyes), dtype=torch.bool, device=eyes.device)
    for side in (1.0, -1.0):
        ball = anatomy.points[(eyes > 0.5) & (anatomy.points[:, 0] * side > 0)]
        near |= (anatomy.points - ball.mean(0)).norm(dim=-1) < 0.022
    return near
