"""A task that is made in an instant: is the bright bar in a noisy picture upright or level, left (upper) or right (lower)?"""

import torch
from torch import Tensor, nn


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return pictures (count, 1, 16, 16) and their classes, 0 to 3."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 16, 16, generator=generator) * 0.7
    labels = torch.randint(4, (count,), generator=generator)
    places = torch.randint(1, 7, (count,), generator=generator)
    for image, label, place in zip(images, labels.tolist(), places.tolist(), strict=True):
        line = place + 8 * (label % 2)
        bar = image[0, :, line] if label < 2 else image[0, line, :]
        bar += 1.5
    return images, labels


def batches(images: Tensor, labels: Tensor, epoch: int, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """Return the batches of an epoch, in an order of its own."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
    return [(images[part], labels[part]) for part in order.split(size)]


def network() -> nn.Module:
    """Return a small untrained network."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 4),
    )


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of pictures that are classed rightly."""
    model.eval()
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    model.train()
    return float(right.float().mean())
