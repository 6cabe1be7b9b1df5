"""The data: Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747) as Debian packages it, split once and for all."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where ``apt-get install dataset-fashion-mnist`` puts it."""
VALIDATION = 5_000
"""Pictures at the end of the training set that only choices are made on."""
MEAN, STD = 0.2860, 0.3530
"""Of all training pixels, in 0..1."""


@dataclass(frozen=True)
class Pictures:
    """Images (n, 1, 28, 28), normalised, and labels (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """What is trained on, what choices are made on, and what is only scored."""

    train: Pictures
    validation: Pictures
    test: Pictures


def fashion_mnist(folder: Path = FOLDER) -> Split:
    """Read the four files of the package; the last `VALIDATION` training pictures are set apart."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing. Install it with: apt-get install dataset-fashion-mnist")
    images, labels = (
        _images(folder / "train-images-idx3-ubyte.gz"),
        _labels(folder / "train-labels-idx1-ubyte.gz"),
    )
    cut = len(labels) - VALIDATION
    return Split(
        Pictures(images[:cut], labels[:cut]),
        Pictures(images[cut:], labels[cut:]),
        Pictures(
            _images(folder / "t10k-images-idx3-ubyte.gz"), _labels(folder / "t10k-labels-idx1-ubyte.gz")
        ),
    )


def _read(path: Path) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(content, ">i4", content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def _images(path: Path) -> Tensor:
    pixels = torch.from_numpy(_read(path).copy()).float()[:, None] / 255
    return (pixels - MEAN) / STD


def _labels(path: Path) -> Tensor:
    return torch.from_numpy(_read(path).astype(np.int64))


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the pictures shifted by up to 2 pixels and mirrored at random."""
    n, _, height, width = images.shape
    padded = functional.pad(images, (2, 2, 2, 2), value=-MEAN / STD)
    dy, dx = torch.randint(5, (2, n), generator=generator)
    rows = dy[:, None] + torch.arange(height)
    columns = dx[:, None] + torch.arange(width)
    mirrored = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    picked = padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    return picked[:, None]
