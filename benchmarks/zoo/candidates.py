"""Models of packages that nobody here tuned for: found by the packages' own lists, built by rule, breadth first."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from zoo.case import Inputs, outputs_of, randomise_
from zoo.vision_ops import define

SOURCES = {
    "timm": "timm",
    "pytorchcv": "pytorchcv",
    "smp": "segmentation_models_pytorch",
    "vit-pytorch": "vit_pytorch",
    "monai": "monai",
    "diffusers": "diffusers",
    "torch-geometric": "torch_geometric",
}
"""Name of a source -> the module that it needs."""
SIDES = (64, 96, 128, 160, 192, 224, 256, 288, 384, 448, 512)
"""Sides of pictures, tried from the smallest on."""


@dataclass(frozen=True)
class Candidate:
    """A model that may be built."""

    name: str
    family: str
    """Models of one family are one architecture; one of each comes first."""
    open: Callable[[], tuple[nn.Module, Inputs]]
    """Build the model, with the inputs that it runs on."""

    def build(self, seed: int = 0) -> tuple[nn.Module, Inputs]:
        """Return the model in evaluation mode with random weights and no constant parameter, and its inputs."""
        torch.manual_seed(seed)
        model, inputs = self.open()
        if not any(parameter.numel() for parameter in model.parameters()):
            raise ValueError("it has no parameter")
        randomise_(model)
        return model.eval(), inputs


def candidates(source: str) -> list[Candidate]:
    """Return all models of a source: one of each family, then the next of each, and so on.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    if importlib.util.find_spec(SOURCES[source]) is None:
        raise ModuleNotFoundError(f"{SOURCES[source]} is not installed: pip install --no-deps {source}")
    define()  # torchvision, which many of them import
    module = importlib.import_module(f"zoo.{SOURCES[source]}_list")
    return list(breadth_first(module.found()))


def breadth_first(found: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield the smallest (by its name) of each family, then the second of each, and so on."""
    families: dict[str, list[Candidate]] = {}
    for candidate in found:
        families.setdefault(candidate.family, []).append(candidate)
    ranked = [sorted(family, key=lambda one: size_by_name(one.name)) for family in families.values()]
    for turn in range(max(map(len, ranked), default=0)):
        yield from (family[turn] for family in ranked if turn < len(family))


_WORDS = (
    "test", "zepto", "atto", "femto", "pico", "nano", "micro", "mini", "xxxs", "xxs", "xxtiny", "xs", "xtiny", "tiny",
    "t", "small", "s", "", "m", "medium", "b", "base", "l", "large", "xl", "xlarge", "so150m", "h", "huge", "g", "giant",
    "gigantic", "enormous",
)  # fmt: skip


def size_by_name(name: str) -> tuple[int, list[int], int, str]:
    """Return a key that is less for names of smaller models: words such as ``tiny``, then numbers."""
    words = [word for word in re.split(r"[_\-.]", name) if word in _WORDS]
    rank = _WORDS.index(words[0]) if words else _WORDS.index("")
    return rank, [int(number) for number in re.findall(r"\d+", name)], len(name), name


def smallest_picture(model: nn.Module, channels: int = 3, sides: Iterable[int] = SIDES) -> torch.Tensor:
    """Return two pictures of the smallest side that a model takes.

    Raises:
        ValueError: it takes none, with what the last one raised.
    """

    def taken(side: int) -> torch.Tensor:
        picture = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))
        outputs_of(model, picture)
        return picture

    return first_of([partial(taken, side) for side in sides])


Made = TypeVar("Made")


def first_of(ways: Iterable[Callable[[], Made]]) -> Made:
    """Return what the first way makes that raises nothing.

    Raises:
        ValueError: all raise, with what the last one did.
    """
    error: Exception | None = None
    for way in ways:
        made = tried(way)
        if not isinstance(made, Exception):
            return made
        error = made
    raise ValueError(f"does not build or run: {type(error).__name__}: {error}")


def tried(way: Callable[[], Made]) -> Made | Exception:
    """Return what a function makes, or what it raises: packages raise whatever they like."""
    try:
        return way()
    except Exception as error:
        return error
