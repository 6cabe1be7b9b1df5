"""Every model that timm registers, with 16 classes, on the smallest picture that it takes; large ones with fewer blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.candidates import SIDES, Candidate, first_of, smallest_picture
from zoo.case import Inputs

CLASSES = 16
LARGE = 40_000_000
"""Models of more parameters are made with fewer blocks."""


def found() -> Iterator[Candidate]:
    """Yield all registered models; a family is what stands before the first number or dash of a name, in one file."""
    import timm

    files: dict[str, dict[str, list[str]]] = {}
    for name in timm.list_models():
        file = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
        words = re.split(r"[\d_]", name)
        family = words[0] if words[0] != "test" else "test " + words[1]
        files.setdefault(file, {}).setdefault(family, []).append(name)
    for turn in range(max(map(len, files.values()))):  # one family of every file first
        for file, families in files.items():
            for family in list(families)[turn : turn + 1]:
                for name in families[family]:
                    yield Candidate(name, f"{file}: {family}", partial(_open, name))


def _open(name: str) -> tuple[nn.Module, Inputs]:
    """Models of one size may be made for another."""
    import timm

    known = timm.models.get_pretrained_cfg(name)
    fixed = known is not None and known.fixed_input_size
    sides = (*(SIDES[:6] if fixed else ()), None)
    return first_of([partial(_of_size, name, side, _shallow(name)) for side in sides])


def _of_size(name: str, side: int | None, shallow: dict[str, Any]) -> tuple[nn.Module, Inputs]:
    import timm

    size = {} if side is None else {"img_size": side}
    model = timm.create_model(name, num_classes=CLASSES, **size, **shallow).eval()
    channels = model.pretrained_cfg.get("input_size", (3,))[0]
    return model, smallest_picture(model, channels, SIDES if side is None else (side,))


def _shallow(name: str) -> dict[str, Any]:
    """Return how a large model is made with fewer blocks; nothing for others.

    Raises:
        ValueError: it stays large.
    """
    import timm

    size = 0
    for fewer in ({}, {"depth": 2}, {"depths": (1, 1, 1, 1)}, {"layers": (1, 1, 1, 1)}):
        try:
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=CLASSES, **fewer)
        except Exception:  # it has no such argument
            continue
        size = size or sum(parameter.numel() for parameter in model.parameters())
        if sum(parameter.numel() for parameter in model.parameters()) <= LARGE:
            return fewer
    raise ValueError(f"{size} parameters, also with fewer blocks more than {LARGE}")
