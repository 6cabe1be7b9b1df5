"""Bodies of the package `anny`: many people's rest shapes on one mesh, with a small skeleton to move them.

`anny` (Apache-2.0, body data CC0) is needed here and nowhere else; it comes with the extra ``pose-data``.
Axes: x to the person's left, y to the back, z up; metres.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

import torch

from pose_demo.skeleton import COCO_KEYPOINTS
from torchthin.errors import InputError

# (bone, parent): the bones that move. Every other bone of anny follows the nearest of these above it.
_SIDES = (
    ("clavicle", "spine01"),
    ("upperarm01", "clavicle"),
    ("lowerarm01", "upperarm01"),
    ("wrist", "lowerarm01"),
    ("upperleg01", "root"),
    ("lowerleg01", "upperleg01"),
    ("foot", "lowerleg01"),
)
_TRUNK = (
    ("root", ""),
    ("spine05", "root"),
    ("spine03", "spine05"),
    ("spine01", "spine03"),
    ("neck01", "spine01"),
    ("head", "neck01"),
)
_SPINE = {bone for bone, _ in _TRUNK}
BONES = tuple(bone for bone, _ in _TRUNK) + tuple(f"{bone}.{side}" for side in "LR" for bone, _ in _SIDES)
PARENTS = tuple(BONES.index(parent) if parent else -1 for _, parent in _TRUNK) + tuple(
    BONES.index(parent if parent in _SPINE else f"{parent}.{side}") for side in "LR" for _, parent in _SIDES
)


@dataclass(frozen=True)
class Bodies:
    """Rest shapes of I people on a mesh of V vertices and F triangles, with J = len(BONES) bones.

    `vertices` (I, V, 3), `heads` (I, J, 3) bone starts, `weights` (V, J) skinning weights, `faces` (F, 3)
    int64, `regressor` (17, V) COCO keypoints from vertices, `eyes` (V,) share of each vertex that belongs to
    an eyeball.
    """

    vertices: torch.Tensor
    heads: torch.Tensor
    weights: torch.Tensor
    faces: torch.Tensor
    regressor: torch.Tensor
    eyes: torch.Tensor

    def to(self, device: torch.device | str) -> Bodies:
        """Return the same bodies with every tensor on `device`."""
        return Bodies(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def load_bodies(count: int, seed: int) -> Bodies:
    """Return `count` random people of both sexes, mostly adults. The first call ever takes minutes.

    Raises InputError when the package `anny` is missing.
    """
    try:
        anny = import_module("anny")
    except ModuleNotFoundError as error:
        raise InputError(
            "Making people needs the package anny. Install it with: pip install 'torchthin[pose-data]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for an optional GPU package
        model = anny.Anny()
        regressor = anny.keypoints.KeypointsRegressor.coco(model, labels=list(COCO_KEYPOINTS))
        shapes = [_rest_shapes(model, part) for part in torch.split(_phenotypes(model, count, seed), 32)]
    vertices, heads = (torch.cat(tensors) for tensors in zip(*shapes, strict=True))
    owner = torch.tensor(_owners(list(model.bone_labels), list(model.bone_parents)))
    weights = torch.zeros(vertices.shape[1], len(BONES))
    weights.index_add_(1, owner, model.dense_vertex_bone_weights.float())
    eyes = [i for i, bone in enumerate(model.bone_labels) if bone.startswith("eye")]
    return Bodies(
        vertices=vertices,
        heads=heads[:, [model.bone_labels.index(bone) for bone in BONES]],
        weights=weights,
        faces=model.get_triangular_faces().long(),
        regressor=regressor.regression_weights.float(),
        eyes=model.dense_vertex_bone_weights[:, eyes].sum(1).float(),
    )


def _owners(labels: list[str], parents: list[int]) -> list[int]:
    """Return for each bone of anny the index in BONES that moves it: itself or the nearest one above."""
    owners = []
    for bone in range(len(labels)):
        while labels[bone] not in BONES:
            bone = parents[bone]
        owners.append(BONES.index(labels[bone]))
    return owners


def _phenotypes(model: Any, count: int, seed: int) -> torch.Tensor:
    """Return (count, P) random phenotypes in the model's order, all in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, len(model.phenotype_labels), generator=generator)
    middle = values * 0.6 + 0.2
    age = model.phenotype_labels.index("age")
    middle[:, age] = torch.where(
        torch.rand(count, generator=generator) < 0.2,
        0.35 + 0.25 * values[:, age],
        0.6 + 0.35 * values[:, age],
    )
    gender = model.phenotype_labels.index("gender")
    middle[:, gender] = values[:, gender]
    return middle


@torch.no_grad()
def _rest_shapes(model: Any, phenotypes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rest vertices (B, V, 3) and heads of all of anny's bones (B, 104, 3) of people (B, P)."""
    kwargs = {name: phenotypes[:, i].double() for i, name in enumerate(model.phenotype_labels)}
    out = model(phenotype_kwargs=kwargs)
    return out["rest_vertices"].float(), out["rest_bone_heads"].float()
