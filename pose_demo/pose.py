"""Random, plausible poses: joint rotations within human limits, and linear blend skinning of the mesh.

Rotations are written in the axes of the rest shape (see `body`): a bone's global rotation is its parent's
times its own. About +x: knees bend and the trunk leans forward; about -x: hips and shoulders lift to the
front.
"""

from __future__ import annotations

import torch

from pose_demo.body import BONES, PARENTS, Bodies

_X = (1.0, 0.0, 0.0)
_Y = (0.0, 1.0, 0.0)
_Z = (0.0, 0.0, 1.0)


def axis_rotation(axis: torch.Tensor | tuple[float, ...], degrees: torch.Tensor) -> torch.Tensor:
    """Return rotations (B, 3, 3) about unit axes (3,) or (B, 3) by angles (B,), by Rodrigues' formula."""
    angle = torch.deg2rad(degrees)
    x, y, z = torch.as_tensor(axis, dtype=angle.dtype, device=angle.device).expand(len(angle), 3).unbind(-1)
    zero = torch.zeros_like(angle)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(3, dtype=angle.dtype, device=angle.device) + sin * cross + (1 - cos) * cross @ cross


def swing(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Return the smallest rotations (B, 3, 3) that turn unit vectors `start` into `end`, both (B, 3)."""
    axis = torch.linalg.cross(start, end)
    angle = torch.atan2(axis.norm(dim=-1), (start * end).sum(-1))
    return axis_rotation(axis / axis.norm(dim=-1, keepdim=True).clamp_min(1e-6), torch.rad2deg(angle))


class _Draw:
    """Random numbers for a batch of `count` bodies."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator
        self.device = generator.device

    def uniform(self, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(self.count, generator=self.generator, device=self.device)

    def normal(self, mean: float, spread: float, limit: float) -> torch.Tensor:
        value = torch.randn(self.count, generator=self.generator, device=self.device) * spread
        return mean + value.clamp(-limit, limit)

    def chance(self, probability: float) -> torch.Tensor:
        return self.uniform(0, 1) < probability


def random_rotations(heads: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return own rotations (B, J, 3, 3) of all bones for people with bone heads (B, J, 3)."""
    draw = _Draw(len(heads), generator)
    own = torch.eye(3, device=draw.device).repeat(len(heads), len(BONES), 1, 1)
    bending = _legs(own, draw)
    _trunk(own, draw, bending)
    for side in "LR":
        _arm(own, heads, draw, side)
    return own


def _set(own: torch.Tensor, bone: str, rotation: torch.Tensor) -> None:
    own[:, BONES.index(bone)] = rotation


def _legs(own: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Choose what the legs do; return (B,) whether the body sits or squats, so that the trunk leans."""
    kind = draw.uniform(0, 1)
    stand, stride, sit, squat = kind < 0.42, kind < 0.64, kind < 0.76, kind < 0.84
    step, lift, knee = draw.uniform(-40, 40), draw.uniform(40, 105), draw.uniform(30, 110)
    for side, sign in (("L", 1.0), ("R", -1.0)):
        forward = (sign * step).clamp(-22, 40) + draw.normal(0, 5, 10)
        free = draw.uniform(-25, 100)
        swinging = (-sign * step).clamp_min(0) * draw.uniform(0, 2) + draw.uniform(0, 15)
        flex = torch.where(squat, lift + draw.normal(0, 8, 20), free)
        flex = torch.where(sit, 88 + draw.normal(0, 9, 20), flex)
        flex = torch.where(stride, forward, flex)
        flex = torch.where(stand, draw.normal(0, 7, 15), flex)
        bend = torch.where(squat, knee + draw.normal(0, 8, 20), draw.uniform(0, 100) * (free > -5))
        bend = torch.where(sit, 85 + draw.normal(0, 18, 40), bend)
        bend = torch.where(stride, swinging, bend)
        bend = torch.where(stand, draw.normal(0, 9, 25).abs(), bend)
        spread = torch.where(stand | stride, draw.normal(0, 6, 12), draw.uniform(-6, 35))
        turn = draw.normal(8, 12, 25)
        rotation = (
            axis_rotation(_Y, -sign * spread) @ axis_rotation(_X, -flex) @ axis_rotation(_Z, sign * turn)
        )
        _set(own, f"upperleg01.{side}", rotation)
        _set(own, f"lowerleg01.{side}", axis_rotation(_X, bend))
        _set(own, f"foot.{side}", axis_rotation(_X, draw.normal(0, 12, 25)))
    return squat & ~stride


def _trunk(own: torch.Tensor, draw: _Draw, bending: torch.Tensor) -> None:
    lean = draw.normal(4, 9, 20) + draw.uniform(0, 35) * (bending | draw.chance(0.12))
    side, twist = draw.normal(0, 8, 20), draw.normal(0, 12, 30)
    third = axis_rotation(_Z, twist / 3) @ axis_rotation(_Y, side / 3) @ axis_rotation(_X, lean / 3)
    for bone in ("spine05", "spine03", "spine01"):
        _set(own, bone, third)
    nod, yaw, tilt = draw.normal(2, 13, 30), draw.normal(0, 24, 60), draw.normal(0, 9, 20)
    half = axis_rotation(_Z, yaw / 2) @ axis_rotation(_Y, tilt / 2) @ axis_rotation(_X, nod / 2)
    for bone in ("neck01", "head"):
        _set(own, bone, half)
    facing = torch.where(draw.chance(0.65), draw.normal(0, 45, 100), draw.uniform(-180, 180))
    roll = torch.where(draw.chance(0.04), draw.uniform(-90, 90), draw.normal(0, 5, 12))
    pitch = draw.normal(0, 6, 15) + draw.uniform(0, 45) * draw.chance(0.05)
    _set(own, "root", axis_rotation(_Z, facing) @ axis_rotation(_Y, roll) @ axis_rotation(_X, pitch))


def _unit(vector: torch.Tensor) -> torch.Tensor:
    length: torch.Tensor = vector.norm(dim=-1, keepdim=True)
    return vector / length


def _arm(own: torch.Tensor, heads: torch.Tensor, draw: _Draw, side: str) -> None:
    """Swing the upper arm to a direction, twist it, and bend the elbow about its own hinge."""
    sign = 1.0 if side == "L" else -1.0
    shoulder, elbow, wrist = (
        heads[:, BONES.index(f"{b}.{side}")] for b in ("upperarm01", "lowerarm01", "wrist")
    )
    upper, fore = _unit(elbow - shoulder), _unit(wrist - elbow)
    hanging = draw.chance(0.5)
    # polar angle from straight down, and heading: 0 to the side, 90 to the front
    polar = torch.where(hanging, draw.normal(17, 10, 30).clamp_min(5), draw.uniform(25, 172))
    heading = torch.where(hanging, draw.uniform(-70, 100), draw.uniform(-25, 115))
    p, h = torch.deg2rad(polar), torch.deg2rad(heading)
    target = torch.stack([sign * p.sin() * h.cos(), -p.sin() * h.sin(), -p.cos()], -1)
    twist = axis_rotation(upper, sign * draw.normal(-5, 28, 60))
    _set(own, f"upperarm01.{side}", swing(upper, target) @ twist)
    shrug = (polar - 70).clamp_min(0) * draw.uniform(0.1, 0.25)
    _set(own, f"clavicle.{side}", axis_rotation(_Y, -sign * shrug))
    rest_bend = torch.rad2deg(torch.acos((upper * fore).sum(-1).clamp(-1, 1)))
    bend = torch.where(draw.chance(0.5), draw.uniform(3, 40), draw.uniform(20, 140))
    hinge = _unit(torch.linalg.cross(upper, fore))
    _set(own, f"lowerarm01.{side}", axis_rotation(hinge, bend - rest_bend))
    _set(own, f"wrist.{side}", axis_rotation(_X, draw.normal(0, 20, 45)))


def bone_transforms(heads: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return (B, J, 3, 4), what each bone does to rest points: heads (B, J, 3), rotations (B, J, 3, 3).

    The root's start is put at the origin.
    """
    rotations: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    for bone, parent in enumerate(PARENTS):
        if parent < 0:
            rotations.append(own[:, bone])
            positions.append(torch.zeros_like(heads[:, bone]))
            continue
        rotations.append(rotations[parent] @ own[:, bone])
        arm = (heads[:, bone] - heads[:, parent])[..., None]
        positions.append(positions[parent] + (rotations[parent] @ arm)[..., 0])
    rotation, position = torch.stack(rotations, 1), torch.stack(positions, 1)
    shift = position - (rotation @ heads[..., None])[..., 0]
    return torch.cat([rotation, shift[..., None]], -1)


def vertex_transforms(bodies: Bodies, transforms: torch.Tensor) -> torch.Tensor:
    """Return the blended transform of every vertex (B, V, 3, 4) from the bones' (B, J, 3, 4)."""
    blended = bodies.weights @ transforms.flatten(2)
    return blended.reshape(*blended.shape[:2], 3, 4)


def move(transforms: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return points (B, V, 3) moved by transforms (B, V, 3, 4)."""
    return (transforms[..., :3] @ points[..., None])[..., 0] + transforms[..., 3]


def tilt_camera(points: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Return points (B, V, 3) as a camera raised by `degrees` (B,) sees them: positive looks down."""
    return points @ axis_rotation(_X, degrees).transpose(1, 2)
