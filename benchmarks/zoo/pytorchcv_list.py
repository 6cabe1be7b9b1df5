"""Every model that pytorchcv's provider names, on the smallest picture that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial

from torch import nn

from zoo.candidates import SIDES, Candidate, first_of, smallest_picture
from zoo.case import Inputs


def found() -> Iterator[Candidate]:
    """Yield all named models; a family is the file that defines one."""
    from pytorchcv import model_provider

    for name, make in model_provider._models.items():
        yield Candidate(name, inspect.getmodule(make).__name__.rpartition(".")[2], partial(_open, name))  # type: ignore[union-attr]


def _open(name: str) -> tuple[nn.Module, Inputs]:
    """Segmentation models are made for one size."""
    return first_of([partial(_of_size, name, side) for side in (None, 64, 128, 256)])


def _of_size(name: str, side: int | None) -> tuple[nn.Module, Inputs]:
    from pytorchcv.model_provider import get_model

    model = get_model(name, pretrained=False, **({} if side is None else {"in_size": (side, side)})).eval()
    return model, smallest_picture(
        model, getattr(model, "in_channels", 3), (32, *SIDES) if side is None else (side,)
    )
