"""Pictures that are drawn: faces of people who do not exist, and coloured shapes to be found. Values are in -1 to 127/128."""

from __future__ import annotations

import torch
from torch import Tensor

TOP = 127 / 128
TRAITS = 16
"""Numbers in 0..1 that make a face."""
SHAPES = ("circle", "square", "triangle", "cross")


def _grid(side: int) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the pixels, in -1..1."""
    line = torch.linspace(-1, 1, side)
    return line[:, None].expand(side, side), line[None].expand(side, side)


def people(count: int, seed: int) -> Tensor:
    """Return the traits of so many people (count, TRAITS)."""
    return torch.rand(count, TRAITS, generator=torch.Generator().manual_seed(seed))


def faces(traits: Tensor, generator: torch.Generator, side: int = 48) -> Tensor:
    """Return a picture of each person (N, 3, side, side): moved, turned, lit and noisy, as no other picture of them."""
    count = len(traits)

    def random(low: float, high: float, *more: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *more, generator=generator)

    t = traits.T[:, :, None, None]
    rows, columns = _grid(side)
    turn, zoom = random(-0.25, 0.25)[:, None, None], random(0.85, 1.15)[:, None, None]
    y = zoom * (rows * turn.cos() - columns * turn.sin()) + random(-0.15, 0.15)[:, None, None]
    x = zoom * (rows * turn.sin() + columns * turn.cos()) + random(-0.15, 0.15)[:, None, None]

    def blob(up: Tensor | float, left: Tensor | float, high: Tensor | float, wide: Tensor | float) -> Tensor:
        return torch.sigmoid(12 * (1 - ((y - up) / high) ** 2 - ((x - left) / wide) ** 2))

    head = blob(0.05, 0.0, 0.62 + 0.2 * t[0], 0.48 + 0.2 * t[1])
    hair = blob(-0.45 - 0.15 * t[2], 0.0, 0.3 + 0.2 * t[3], 0.5 + 0.25 * t[4]) * (y < -0.25 - 0.1 * t[2])
    apart, height, size = 0.18 + 0.1 * t[5], -0.15 + 0.15 * t[6], 0.05 + 0.05 * t[7]
    eyes = blob(height, -apart, size, 1.3 * size) + blob(height, apart, size, 1.3 * size)
    brows = sum(blob(height - 0.13 - 0.08 * t[8], s * apart, 0.03 + 0.03 * t[8], 0.12) for s in (-1, 1))
    nose = blob(0.12, 0.0, 0.1 + 0.1 * t[9], 0.04 + 0.06 * t[9])
    mouth = blob(0.38 + 0.1 * t[10], 0.0, 0.03 + 0.05 * t[11], 0.12 + 0.15 * t[12])
    skin = torch.stack(
        [0.45 + 0.5 * traits[:, 13], 0.3 + 0.45 * traits[:, 13], 0.25 + 0.35 * traits[:, 13]], 1
    )
    dark = torch.stack([0.6 * traits[:, 14], 0.4 * traits[:, 14] * traits[:, 15], 0.3 * traits[:, 15]], 1)

    picture = random(0, 1, 3)[:, :, None, None].expand(count, 3, side, side)
    for mask, colour in ((head, skin), (nose, 0.85 * skin), (hair, dark), (brows, dark)):
        picture = torch.lerp(picture, colour[:, :, None, None], mask.clamp(0, 1)[:, None])
    red = torch.tensor([0.7, 0.2, 0.25]).expand(count, 3)
    for mask, colour in ((eyes, torch.zeros(count, 3)), (mouth, red)):
        picture = torch.lerp(picture, colour[:, :, None, None], mask.clamp(0, 1)[:, None])
    light = random(0.6, 1.2)[:, None, None] + random(-0.3, 0.3)[:, None, None] * columns
    picture = picture * light[:, None] + 0.06 * torch.randn(picture.shape, generator=generator)
    return (2 * picture - 1).clamp(-1, TOP)


def scenes(count: int, generator: torch.Generator, side: int = 64, most: int = 3) -> tuple[Tensor, Tensor]:
    """Return pictures (N, 3, side, side) and what is in them (N, most, 5).

    An object is its kind (-1: there is none), then its centre (row, column), height and width as shares of the side.
    """
    rows, columns = _grid(side)

    def random(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    picture = random(0, 0.7, 3)[:, :, None, None] + 0.15 * torch.nn.functional.interpolate(
        torch.randn(count, 3, 8, 8, generator=generator), size=(side, side), mode="bilinear"
    )
    objects = torch.full((count, most, 5), -1.0)
    number = torch.randint(1, most + 1, (count,), generator=generator)
    for slot in range(most):
        kind = torch.randint(len(SHAPES), (count,), generator=generator)
        half = torch.exp(random(-2.3, -0.8))  # of the side's half: 6 to 29 pixels of 64 across
        up, left = ((2 * random(0, 1) - 1) * (1 - half) for _ in range(2))
        y, x = (
            (line - at[:, None, None]) / half[:, None, None] for line, at in ((rows, up), (columns, left))
        )
        masks = torch.stack(
            [
                x**2 + y**2 < 1,
                torch.maximum(x.abs(), y.abs()) < 1,
                (y < 1) & (x.abs() < (y + 1) / 2),
                (torch.minimum(x.abs(), y.abs()) < 0.33) & (torch.maximum(x.abs(), y.abs()) < 1),
            ],
            1,
        )
        mask = masks[torch.arange(count), kind] & (slot < number)[:, None, None]
        picture = torch.where(mask[:, None], random(0, 1, 3)[:, :, None, None], picture)
        found = torch.stack([kind.float(), (up + 1) / 2, (left + 1) / 2, half, half], 1)
        objects[slot < number, slot] = found[slot < number]
    picture = picture + 0.05 * torch.randn(picture.shape, generator=generator)
    return (2 * picture - 1).clamp(-1, TOP), objects
