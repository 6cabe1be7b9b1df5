"""Every network class of monai that builds by rule, small, in two and three dimensions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.by_signature import arguments, first_that_runs
from zoo.candidates import Candidate
from zoo.case import Inputs

SIZES = {
    "in_channels": 3, "out_channels": 4, "channels": (16, 32, 48), "strides": (2, 2), "in_shape": (3, 64, 64),
    "classes": 4, "num_classes": 4, "kernel_size": (3, 3, 3),
    "upsample_kernel_size": (2, 2), "img_size": 64, "patch_size": 16, "model_name": "efficientnet-b0", "backbone":
    "efficientnet-b0", "hidden_channels": (16, 16),
    "latent_size": 8, "image_size": (64, 64), "num_channel_initial": 16, "depth": 2, "extract_levels": (0, 1, 2),
    "num_d": 2, "num_layers_d": 2, "latent_shape": (8,),
    "start_shape": (16, 8, 8), "out_shape": (2,), "label_nc": 3, "num_layers": 2, "num_heads": 4, "mlp_dim": 64,
    "hidden_size": 64, "num_tokens": 32, "max_seq_len": 16,
    "attn_layers_dim": 32, "attn_layers_depth": 2, "attn_layers_heads": 4, "input_shape": (64, 64), "encode_channels":
    (16, 16), "decode_channels": (16, 16),
    "unet_out_channels": 16, "final_conv_channels": (16,), "input_image_size": (64, 64), "num_language_layers": 2,
    "num_vision_layers": 2, "num_mixed_layers": 2,
}  # fmt: skip
SMALL = {
    "features": (8, 8, 16, 24, 32, 8), "feature_size": 24, "init_filters": 8, "hidden_size": 48, "mlp_dim": 96,
    "num_heads": 4, "num_layers": 2,
    "num_res_layers": 1, "norm_num_groups": 8, "num_channels": (16, 16, 32), "init_channels": 16,
}  # fmt: skip
"""Sizes of parameters that have a default."""


def found() -> Iterator[Candidate]:
    """Yield the classes in two and three dimensions."""
    from monai.networks import nets

    kinds = {kind for kind in vars(nets).values() if inspect.isclass(kind) and issubclass(kind, nn.Module)}
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        has = "spatial_dims" in inspect.signature(kind).parameters
        for dims in (2, 3) if has or kind.__name__.startswith("SE") else (2,):
            yield Candidate(f"{kind.__name__} {dims}d", kind.__name__, partial(_open, kind, dims))


def _open(kind: Any, dims: int) -> tuple[nn.Module, Inputs]:
    asked = inspect.signature(kind).parameters
    fixed = (
        {"spatial_dims": dims}
        if "spatial_dims" in asked or any(p.kind is p.VAR_KEYWORD for p in asked.values())
        else {}
    )
    side = {
        "img_size": (64,) * dims,
        "in_shape": (3, *(64,) * dims),
        "input_shape": (64,) * dims,
        "image_size": (64,) * dims,
    }
    sizes = {**SIZES, **side, "spatial_dims": dims, "pretrained": False}
    ways = [
        {**arguments(kind, sizes, chosen), **fixed}
        for chosen in ({**SMALL, "pretrained": False}, {"pretrained": False}, {})
    ]
    ways += [{**way, "in_channels": 3, "num_classes": 4} for way in ways if set(way) <= {"spatial_dims"}]
    ways += [{**way, "model_name": "resnet10"} for way in ways if "model_name" in way]
    ways += [{**way, "channels": 16} for way in ways if "channels" in way]
    ways += [{**way, "depth": (2, 2)} for way in ways if "depth" in way]
    return first_that_runs(kind, ways, _inputs(dims))


def _inputs(dims: int) -> Iterator[Inputs]:
    generator = torch.Generator().manual_seed(1)
    for channels in (3, 1, 2):
        for side in (64, 32) if dims == 2 else (32, 64):
            yield torch.randn(2, channels, *(side,) * dims, generator=generator)
    yield torch.randn(1, 1, 64, 64, 64, generator=generator)
    picture, steps = torch.randn(2, 3, *(32,) * dims, generator=generator), torch.tensor([3, 40])
    yield (picture, steps)
    yield (picture, steps, torch.randn(2, 3, 64, 64, generator=generator))
    yield torch.randn(2, 4, 3, 64, 64, generator=generator)
    yield torch.randn(2, 8, generator=generator)
    yield torch.randn(2, 3, generator=generator)
    yield torch.randint(0, 32, (2, 12), generator=generator)
