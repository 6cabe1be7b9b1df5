"""The networks, small enough to train on a CPU: a ResNet, a VGG without shortcuts, a MobileNet and a vision transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_conv(inputs, outputs, 3, stride), nn.ReLU(), *_conv(outputs, outputs))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def resnet() -> nn.Module:
    """ResNet-8: widths 16, 32, 64."""
    return nn.Sequential(
        *_conv(1, 16), nn.ReLU(), Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def vgg() -> nn.Module:
    """Six convolutions, two to a width of 16, 32, 64."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [*_conv(inputs, outputs), nn.ReLU(), *_conv(outputs, outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, and a shortcut where the sizes allow it (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        wide = expansion * inputs
        self.branch = nn.Sequential(
            *_conv(inputs, wide, 1), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            *_conv(wide, outputs, 1),
        )  # fmt: skip
        self.has_shortcut = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.has_shortcut else self.branch(x)


def mobilenet() -> nn.Module:
    """A MobileNetV2 of six blocks: widths 16, 24, 40."""
    return nn.Sequential(
        *_conv(1, 16), nn.ReLU6(), InvertedResidual(16, 16, 1), InvertedResidual(16, 24, 2),
        InvertedResidual(24, 24, 1), InvertedResidual(24, 40, 2), InvertedResidual(40, 40, 1),
        InvertedResidual(40, 40, 1), *_conv(40, 160, 1), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 10),
    )  # fmt: skip


class EncoderBlock(nn.Module):
    """Attention and an MLP, each behind a layer norm (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Patches of 4 x 4, four blocks of width 64 with four heads; the mean of all tokens is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 49, 64))
        self.blocks = nn.Sequential(*(EncoderBlock(64, 4, 256) for _ in range(4)))
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return out


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": resnet,
    "vgg": vgg,
    "mobilenet": mobilenet,
    "vit": VisionTransformer,
}
