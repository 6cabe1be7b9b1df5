"""Small models that the tests of thinning share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE = (2, 3, 8, 8)


def image(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic a value of its own, so that no error can hide behind a zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or name.endswith("_mask"):
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                noise = noise.abs() + 0.5
            elif tensor.dim() > 1:
                noise = noise / max(tensor[0].numel(), 1) ** 0.5
            else:
                noise = 0.5 * noise + (1 if name.endswith("weight") else 0)
            tensor.copy_(noise)
    return model


class Plain(nn.Module):
    """Two convolutions (the first padded), BatchNorm, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.bn(self.conv1(x))))
        return self.fc(F.relu(y).mean((2, 3)))


class Biasless(nn.Module):
    """Nothing that goes emits a constant: thinned and masked model train alike."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.fc = nn.Linear(6 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(F.avg_pool2d(y, 2).flatten(1))


class Tied(nn.Module):
    """An embedding whose table is the head's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.down(F.gelu(self.up(self.table(tokens)))))


class Twice(nn.Module):
    """One module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        return self.head(F.relu(self.block(F.relu(self.block(y)))))


class Cached(nn.Module):
    """Keeps a table in evaluation mode and drops it in training mode, as attention-bias caches do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Conv2d(8, 4, 1)
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Cached:
        super().train(mode)
        if mode:
            self.cache = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            table = 2 * self.scale.view(1, -1, 1, 1)
        else:
            if "table" not in self.cache:
                self.cache["table"] = 2 * self.scale.view(1, -1, 1, 1)
            table = self.cache["table"]
        return self.head(F.relu(self.conv(x)) * table)


class LazyBuffer(nn.Module):
    """Makes a buffer of constants at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "ramp"):
            ramp = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)
            self.register_buffer("ramp", ramp, persistent=False)
        return self.head(F.relu(self.conv(x)) * self.ramp)


def kill_(model: nn.Module, channels: dict[str, Iterable[int]]) -> None:
    """Set whole filters to zero: parameter name -> indices along axis 0."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, dead in channels.items():
            parameters[name][list(dead)] = 0
