"""Every model of torchvision's list, quantised twins left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from zoo import vision_ops
from zoo.case import Case, Inputs

_DETECTORS = ("rcnn", "retinanet", "ssd", "fcos")
_SEGMENTERS = ("deeplab", "fcn_", "lraspp")


def _make(name: str) -> nn.Module:
    from torchvision.models import get_model

    settings: dict[str, object] = {"weights_backbone": None} if _is(name, _DETECTORS + _SEGMENTERS) else {}
    if name in ("googlenet", "inception_v3"):
        settings["init_weights"] = False
    if "rcnn" in name:
        settings |= _TWO_STAGES
    elif _is(name, _DETECTORS):
        settings |= _ONE_STAGE if "ssd" in name else _ONE_STAGE | _SIDE
    return get_model(name, weights=None, **settings)


_FEW = {"rpn_pre_nms_top_n_train": 200, "rpn_post_nms_top_n_train": 50,
        "rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 50}  # fmt: skip
_SIDE = {"min_size": 320, "max_size": 320}
_TWO_STAGES = {**_FEW, **_SIDE, "box_score_thresh": -1.0}
_ONE_STAGE = {"score_thresh": -1.0, "topk_candidates": 100}
"""Few candidates, so that a pass is quick, and no threshold: an untrained detector would find nothing to compare
(scores of zero must pass too)."""


def _is(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def _uniform(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _picture_side(name: str, small: bool) -> int:
    """Return the side of the pictures that a classifier is made for, or the smallest one that is sure to run."""
    if name == "inception_v3":
        return 299  # its auxiliary head, which runs in training, allows nothing much smaller
    return 64 if small and not name.startswith(("vit_", "maxvit")) else 224


def _inputs(name: str, small: bool, samples: int) -> Inputs:
    if "raft" in name:
        return (_uniform(samples, 3, 128, 128), _uniform(samples, 3, 128, 128, seed=2))
    if _is(name, _DETECTORS):
        side = 300 if "ssd300" in name else 320
        return ([_uniform(3, side, side, seed=seed).abs() for seed in range(1, samples + 1)],)
    if name in ("mc3_18", "r2plus1d_18", "r3d_18"):
        return _uniform(samples, 3, 4 if small else 16, 32 if small else 112, 32 if small else 112)
    if name == "s3d":
        return _uniform(samples, 3, 16, 224, 224)
    if name.startswith("mvit"):
        return _uniform(samples, 3, 16, 224, 224)
    if name.startswith("swin3d"):
        side = 64 if small else 224
        return _uniform(samples, 3, 4 if small else 16, side, side)
    side = _picture_side(name, small)
    return _uniform(samples, 3, side, side)


def _training(name: str) -> Inputs:
    inputs = _inputs(name, True, 2)
    if not _is(name, _DETECTORS):
        return inputs
    boxes = torch.tensor([[20.0, 30.0, 150.0, 160.0], [100.0, 90.0, 250.0, 280.0]])
    target = {
        "boxes": boxes,
        "labels": torch.tensor([1, 1]),
        "masks": torch.ones(2, 320, 320, dtype=torch.uint8),
        "keypoints": torch.cat([boxes[:, None, :2].expand(2, 17, 2) + 5, torch.ones(2, 17, 1)], 2),
    }
    return (*inputs, [dict(target) for _ in range(2)])


def torchvision_cases() -> list[Case]:
    """Return all cases; torchvision must be installed."""
    vision_ops.define()
    from torchvision.models import list_models

    def bound(function: Callable[..., Inputs], *arguments: object) -> Callable[[], Inputs]:
        return partial(function, *arguments)

    return [
        Case(
            name,
            "torchvision",
            partial(_make, name),
            bound(_inputs, name, False, 1),
            bound(_inputs, name, True, 1),
            bound(_training, name),
            ranks=_is(name, _DETECTORS),
        )
        for name in list_models()
        if not name.startswith("quantized")
    ]
