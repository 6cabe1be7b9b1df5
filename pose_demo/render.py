"""A small renderer: points scattered on the triangles, a z-buffer by `scatter_reduce`, averaged down 2x.

Everything is vectorised over the bodies of a batch and runs on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

SUPERSAMPLING = 2
_POINT_BITS = 26
_EMPTY = 2**62


@dataclass(frozen=True)
class Points:
    """N fixed points on a mesh: `corners` (N, 3) vertex indices and `shares` (N, 3) barycentric weights."""

    corners: torch.Tensor
    shares: torch.Tensor


def scatter_points(
    vertices: torch.Tensor, faces: torch.Tensor, count: int, generator: torch.Generator
) -> Points:
    """Return `count` points spread evenly by area over the mesh of vertices (V, 3) and faces (F, 3)."""
    a, b, c = vertices[faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1)
    chosen = torch.multinomial(area, count, replacement=True, generator=generator)
    u, v = torch.rand(2, count, generator=generator, device=generator.device)
    root = u.sqrt()
    return Points(faces[chosen], torch.stack([1 - root, root * (1 - v), root * v], -1))


def on_points(values: torch.Tensor, points: Points) -> torch.Tensor:
    """Return vertex values (B, V, C) interpolated at the points (B, N, C)."""
    total = values[:, points.corners[:, 0]] * points.shares[:, :1]
    for corner in (1, 2):
        total += values[:, points.corners[:, corner]] * points.shares[:, corner : corner + 1]
    return total


def splat(
    positions: torch.Tensor, depth: torch.Tensor, colours: torch.Tensor, front: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw points and return premultiplied RGBA (B, 4, side, side) in [0, 1] and depth (B, 2 side, 2 side).

    `positions` (B, N, 2) in pixels, `depth` (B, N) in metres (>= 0), `colours` (B, N, 3), `front` (B, N) whether
    a point faces the camera. Each point covers 2x2 pixels of the doubled grid; the nearest wins. Depth is inf
    where empty.
    """
    batch, grid = len(positions), side * SUPERSAMPLING
    picture, point = front.nonzero(as_tuple=True)
    spot = (positions[picture, point] * SUPERSAMPLING - 0.5).floor().long()
    key = ((depth[picture, point] * 2**14).long() << _POINT_BITS) + torch.arange(
        len(picture), device=positions.device
    )
    buffer = torch.full((batch * grid * grid,), _EMPTY, dtype=torch.int64, device=positions.device)
    for dx, dy in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = spot[:, 0] + dx, spot[:, 1] + dy
        inside = (x >= 0) & (x < grid) & (y >= 0) & (y < grid)
        cell = (picture * grid + y) * grid + x
        buffer.scatter_reduce_(0, cell[inside], key[inside], "amin")
    filled = buffer < _EMPTY
    winner = torch.where(filled, buffer & (2**_POINT_BITS - 1), 0)
    rgb = colours[picture, point][winner] * filled[:, None]
    far = torch.where(filled, (buffer >> _POINT_BITS).float() / 2**14, float("inf"))
    rgba = torch.cat([rgb, filled[:, None].float()], 1).reshape(batch, grid, grid, 4).permute(0, 3, 1, 2)
    return F.avg_pool2d(_close_holes(rgba), SUPERSAMPLING), far.reshape(batch, grid, grid)


def _close_holes(rgba: torch.Tensor) -> torch.Tensor:
    """Fill empty pixels with at least six full neighbours by their mean."""
    sums = F.avg_pool2d(rgba, 3, stride=1, padding=1) * 9
    neighbours = sums[:, 3:]
    hole = (rgba[:, 3:] == 0) & (neighbours >= 6)
    return torch.where(hole, sums / neighbours.clamp_min(1), rgba)


def shade(normals: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return light (B, V, 3) on unit normals (B, V, 3), the camera looking along +y: a lamp and ambient."""
    count, device = len(normals), normals.device
    lamp = torch.randn(count, 3, generator=generator, device=device) * torch.tensor(
        [1.0, 0.7, 0.8], device=device
    )
    lamp = lamp + torch.tensor([0.0, -0.7, 0.7], device=device)
    lamp = lamp / lamp.norm(dim=-1, keepdim=True)
    ambient = 0.25 + 0.45 * torch.rand(count, 1, 1, generator=generator, device=device)
    tint = 1 + 0.12 * torch.randn(count, 1, 3, generator=generator, device=device).clamp(-2, 2)
    facing = (normals @ lamp[..., None]) * 0.6 + 0.4
    light: torch.Tensor = ambient + (1.15 - ambient) * facing.clamp_min(0) * tint
    return light
