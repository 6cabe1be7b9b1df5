"""Example inputs from shapes or data set names, and the device to run on."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import nn

from torchthin.errors import ConfigError, near_matches

DATASET_SHAPES: dict[str, tuple[int, int, int]] = {
    "imagenet": (3, 224, 224),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "svhn": (3, 32, 32),
    "stl10": (3, 96, 96),
    "mnist": (1, 28, 28),
    "fashionmnist": (1, 28, 28),
    "kmnist": (1, 28, 28),
    "emnist": (1, 28, 28),
    "usps": (1, 16, 16),
}
"""Image size (channels, height, width) of data sets, by torchvision's class names in small letters."""
_DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "bool",
    )
}


def example_inputs(shapes: Sequence[str], dataset: str | None) -> tuple[torch.Tensor, ...] | None:
    """Return a tensor for each shape (``1,3,128,128``, ``1,16:int64``), else one of the data set's, or None.

    Floating inputs are normal random numbers, whole ones 0 or 1; always the same ones.

    Raises:
        ConfigError: a shape, dtype or data set is unknown.
    """
    by_dataset = [] if dataset is None else [_dataset_shape(dataset)]
    shapes = shapes or by_dataset
    generator = torch.Generator().manual_seed(0)
    return tuple(_example(shape, generator) for shape in shapes) or None


def _dataset_shape(dataset: str) -> str:
    name = re.sub(r"[-_ ]", "", dataset.lower())
    if name not in DATASET_SHAPES:
        raise ConfigError(
            f"The dataset must be one of {', '.join(DATASET_SHAPES)}. Got "
            f"{dataset!r}.{near_matches(name, DATASET_SHAPES)} "
            "Or give the model's input as --input-shape."
        )
    return ",".join(map(str, (1, *DATASET_SHAPES[name])))


def _example(text: str, generator: torch.Generator) -> torch.Tensor:
    sizes, _, dtype_name = text.partition(":")
    if not re.fullmatch(r"\d+(,\d+)*(:.+)?", text) or 0 in (shape := tuple(map(int, sizes.split(",")))):
        raise ConfigError(
            f"An input shape must be sizes such as 1,3,128,128, with a dtype as in 1,16:int64. Got {text!r}."
        )
    if math.prod(shape) > 2**31:
        raise ConfigError(f"An input shape must have at most 2**31 entries. Got {text!r}.")
    dtype = _DTYPES.get(dtype_name or "float32")
    if dtype is None:
        raise ConfigError(
            f"The dtype of an input shape must be one of {', '.join(_DTYPES)}. Got "
            f"{dtype_name!r}.{near_matches(dtype_name, _DTYPES)}"
        )
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(2, shape, generator=generator).to(dtype)


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """Return `model` moved to `device`; one on the meta device has no values to move, and stays there."""
    return model if any(parameter.is_meta for parameter in model.parameters()) else model.to(device)


def usable_device(name: str) -> torch.device:
    """Return the device called `name`.

    Raises:
        ConfigError: there is no such kind of device, or this machine has none.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"The device must be cpu, cuda, cuda:<number> or mps. Got {name!r}.")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("The device mps is not available here. Use --device cpu.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise ConfigError(
                f"The device {name} is not available here: torch sees no CUDA GPU. Use --device cpu."
            )
        if device.index is not None and device.index >= count:
            raise ConfigError(f"The device must be one of cuda:0 to cuda:{count - 1}. Got {name!r}.")
    return device
