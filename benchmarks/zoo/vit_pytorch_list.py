"""Every model class of vit-pytorch that pictures, clips or sequences go through, small."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.by_signature import arguments, first_that_runs
from zoo.candidates import Candidate
from zoo.case import Inputs

SIZES = {
    "image_size": 64, "num_classes": 10, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128, "channels": 3, "frames": 4,
    "image_patch_size": 16, "max_frames": 4,
    "frame_patch_size": 2, "patch_size": 16, "seq_len": 64, "cls_depth": 1, "mlp_mult": 2, "sm_dim": 32, "lg_dim": 64,
    "dims": (32, 48, 64), "spatial_depth": 2,
    "temporal_depth": 2, "num_hierarchies": 2, "block_repeats": (1, 1), "max_tokens_per_depth": (8, 4),
    "freq_patch_size": 8, "num_residual_streams": 2,
    "ndim": 2, "input_shape": 64, "reduction_factor": (2, 2, 1, 1), "num_slots": 4, "num_register_tokens": 2,
}  # fmt: skip
SMALL = {
    "dim": 64,
    "depth": 2,
    "heads": 4,
    "mlp_dim": 128,
    "dim_head": 16,
    "image_size": 64,
    "jumbo_ff_mult": 1,
} | {
    f"s{stage}_{what}": size
    for stage in (1, 2, 3, 4)
    for what, size in (("emb_dim", 16 * stage), ("depth", 1), ("heads", stage), ("mlp_mult", 2))
}
"""Sizes of parameters that may have a default."""
OTHER = (
    {"depth": (1, 1, 1)}, {"depth": (1, 1, 1), "dim": (32, 48, 64), "heads": (2, 2, 2)}, {"depth": (1, 1, 1, 1)},
    {"depth": (1, 1, 1, 1), "heads": (1, 2, 2, 2), "image_size": 224},
    {"image_size": (64, 64), "dims": (32, 48, 64), "channels": (16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 80)},
    {"image_size": 180},
    {"mlp_dim": 128, "image_size": 64, "dim": 64, "patch_size": 8}, {"image_size": 224, "dim": 64, "depth": (1, 1, 1),
    "heads": (2, 2, 2), "mlp_mult": 2},
    {"dim": 32, "depth": (1, 1, 1, 1), "image_size": 224, "window_size": 7},
)  # fmt: skip
"""What is tried where these sizes do not build or run."""


def found() -> Iterator[Candidate]:
    """Yield the classes that are asked for a number of classes or a picture's size."""
    import vit_pytorch

    for info in pkgutil.iter_modules(vit_pytorch.__path__):
        try:
            module = importlib.import_module(f"vit_pytorch.{info.name}")
        except Exception:  # needs a package that is not here
            continue
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind.__module__ == module.__name__:
                asked = inspect.signature(kind).parameters
                if "num_classes" in asked or ("dim" in asked and "image_size" in asked):
                    yield Candidate(f"{info.name}.{name}", info.name, partial(_open, kind))


def _open(kind: Any) -> tuple[nn.Module, Inputs]:
    ways = [
        arguments(kind, SIZES, SMALL),
        arguments(kind, SIZES),
        *(arguments(kind, {**SIZES, **other}, {}) for other in OTHER),
    ]
    return first_that_runs(kind, ways, _inputs())


def _inputs() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for shape in (
        (2, 3, 64, 64),
        (2, 3, 4, 64, 64),
        (2, 3, 64),
        (2, 3, 224, 224),
        (2, 4, 64, 64),
        (2, 17, 64),
        (2, 3, 256, 256),
    ):
        yield torch.randn(shape, generator=generator)
