"""A small net, its data and a training step, all of them the same every time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchthin import Pruner, Ratio, Schedule, Unstructured

RUNS = {
    "channels": (Ratio, "agp"),
    "channels at once": (Ratio, "one-shot"),
    "weights": (Unstructured, "agp"),
}
"""What is pruned, and along which curve."""
IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(7))
MORE = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(8))


class Net(nn.Module):
    """A stem, a branch that is added back, BatchNorm with and without a bias before it, and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 10, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(10)
        self.branch = nn.Conv2d(10, 10, 3, padding=1)
        self.wide = nn.Conv2d(10, 12, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        x = x + self.branch(x).relu()
        return self.head(self.wide(x).relu().mean((2, 3)))


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + number)
    return torch.randn(8, 3, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> float:
    images, labels = batch(number)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def setting(
    run: str = "channels", seed: int = 0, *, scope: str = "group", steps: int = 6, **schedule: Any
) -> tuple[Net, torch.optim.Optimizer, Pruner]:
    net = Net(seed)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    target, curve = RUNS[run]
    when = Schedule(**{"curve": curve, "steps": steps, **schedule})
    return net, optimizer, Pruner(net, IMAGES[:2], target(0.5, scope), schedule=when, optimizer=optimizer)


def live(masks: dict[str, Tensor]) -> dict[str, int]:
    """Return how many filters each mask leaves."""
    return {name: int(mask.flatten(1).any(1).sum()) for name, mask in masks.items()}


def assert_zero_where_masked(model: nn.Module, masks: dict[str, Tensor]) -> None:
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any(), name
