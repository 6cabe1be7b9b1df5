"""Procedural rooms and streets: gradients, floors, noise, boxes, discs and limb-like bars, all seeded."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pose_demo.appearance import random_colours, uniform

_SHAPES = 8


def pixel_grid(side: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x (1, side) and y (side, 1) of the pixel centres, from 0 to 1 across the picture."""
    line = (torch.arange(side, device=device) + 0.5) / side
    return line[None, :], line[:, None]


def blotches(count: int, channels: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Return smooth random noise (count, channels, side, side) of mean 0: four octaves of random strength."""
    total = torch.zeros(count, channels, side, side, device=generator.device)
    for cells in (3, 8, 24, side // 2):
        noise = uniform((count, channels, cells, cells), -1, 1, generator)
        strength = uniform((count, 1, 1, 1), 0, 1, generator) ** 2
        total += strength * F.interpolate(noise, size=(side, side), mode="bilinear", align_corners=False)
    return total


def draw_shape(
    picture: torch.Tensor, chance: float, generator: torch.Generator, size: tuple[float, float] = (0.04, 0.35)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay one random rotated box, disc or thin bar over each picture (B, 3, S, S).

    Returns the pictures and what the shape covers, (B, 1, S, S) in [0, 1]; `size` limits the half sides as
    shares of the picture.
    """
    count, side = len(picture), picture.shape[-1]
    x, y = pixel_grid(side, picture.device)
    centre, half = uniform((2, count, 1, 1), 0, 1, generator), uniform((2, count, 1, 1), *size, generator)
    thin = torch.rand((count, 1, 1), generator=generator, device=picture.device) < 0.3
    half = torch.stack([torch.where(thin, half[0] * 0.15 + 0.01, half[0]), half[1]])
    angle = uniform((count, 1, 1), -0.2, 0.2, generator) + torch.where(
        thin, uniform((count, 1, 1), -1.5, 1.5, generator), 0
    )
    u = ((x - centre[0]) * angle.cos() + (y - centre[1]) * angle.sin()) / half[0]
    v = ((y - centre[1]) * angle.cos() - (x - centre[0]) * angle.sin()) / half[1]
    round_ = torch.rand((count, 1, 1), generator=generator, device=picture.device) < 0.35
    distance = torch.where(round_, (u * u + v * v).sqrt(), torch.maximum(u.abs(), v.abs()))
    cover = ((1 - distance) * half.amin(0) * side + 0.5).clamp(0, 1)
    present = torch.rand((count, 1, 1), generator=generator, device=picture.device) < chance
    cover = (cover * present)[:, None]
    light = 1 + 0.25 * (u.clamp(-1, 1) * uniform((count, 1, 1), -1, 1, generator))[:, None]
    colour = random_colours(count, generator)[..., None, None] * light
    return picture + (colour - picture) * cover, cover


def backgrounds(count: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Return (count, 3, side, side) pictures without people, in [0, 1]."""
    x, y = pixel_grid(side, generator.device)
    angle = uniform((count, 1, 1, 1), -3.2, 3.2, generator)
    ramp = (x - 0.5) * angle.cos() + (y - 0.5) * angle.sin() + 0.5
    first, second, floor = (random_colours(count, generator)[..., None, None] for _ in range(3))
    picture = first + (second - first) * ramp * uniform((count, 1, 1, 1), 0, 1, generator)
    horizon = uniform((count, 1, 1, 1), 0.45, 1.3, generator)
    picture = torch.where(y > horizon, floor * (0.7 + 0.5 * (y - 0.5)), picture)
    tiles = torch.sin(x * uniform((count, 1, 1, 1), 5, 90, generator)) * torch.sin(
        y * uniform((count, 1, 1, 1), 5, 90, generator)
    )
    tiled = uniform((count, 1, 1, 1), -0.5, 0.25, generator).clamp_min(0)
    picture = picture + tiled * tiles.sign()
    for _ in range(_SHAPES):
        picture, _cover = draw_shape(picture, 0.6, generator)
    grain = 0.3 * uniform((count, 1, 1, 1), 0, 1, generator) ** 2
    coloured = uniform((count, 1, 1, 1), 0, 1, generator)
    noise = blotches(count, 4, side, generator)
    return (picture + grain * (noise[:, :1] + coloured * noise[:, 1:])).clamp(0, 1)
