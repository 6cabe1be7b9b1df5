"""Networks of the shapes that ADI's model zoo has, of stand-in layers, small enough to train on a CPU in minutes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from torchthin.max7800x.ai8x.layers import (
    Add,
    AvgPool2d,
    Conv2d,
    FusedAvgPoolConv1dReLU,
    FusedConv1dBNReLU,
    FusedConv2dBN,
    FusedConv2dBNReLU,
    FusedMaxPoolConv1dBNReLU,
    FusedMaxPoolConv2dBNReLU,
    Linear,
)


def same(inputs: int, outputs: int) -> nn.Module:
    """A padded 3x3 layer."""
    return FusedConv2dBNReLU(inputs, outputs, 3, padding=1)


def halved(inputs: int, outputs: int, **more: int) -> nn.Module:
    """Max pooling by 2 and a padded 3x3 layer."""
    return FusedMaxPoolConv2dBNReLU(inputs, outputs, 3, padding=1, **more)


class Residual(nn.Module):
    """Simple residual blocks (ressimplenet): 1x28x28 -> 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = same(1, 16), same(16, 20)
        self.conv3, self.conv4, self.add1 = same(20, 20), same(20, 20), Add()
        self.conv5, self.conv6, self.add2 = halved(20, 44), same(44, 44), Add()
        self.conv7, self.conv8, self.add3 = halved(44, 48), same(48, 48), Add()
        self.conv9 = halved(48, 96)
        self.conv10 = FusedConv2dBNReLU(96, 64, 1)
        self.fc = Linear(64 * 9, 10, bias=True, wide=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x))
        x = self.add1(x, self.conv4(self.conv3(x)))
        x = self.conv5(x)
        x = self.add2(x, self.conv6(x))
        x = self.conv7(x)
        x = self.add3(x, self.conv8(x))
        x = self.conv10(self.conv9(x))
        return self.fc(x.flatten(1))


class Keywords(nn.Module):
    """A chain of 1-d layers (kws20): 13x64 -> 10 words."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = FusedConv1dBNReLU(13, 100, 1)
        self.conv2 = FusedConv1dBNReLU(100, 96, 3)
        self.conv3 = FusedMaxPoolConv1dBNReLU(96, 64, 3, padding=1)
        self.conv4 = FusedConv1dBNReLU(64, 48, 3)
        self.conv5 = FusedMaxPoolConv1dBNReLU(48, 64, 3, padding=1)
        self.conv6 = FusedConv1dBNReLU(64, 96, 3)
        self.conv7 = FusedAvgPoolConv1dReLU(96, 100, 3, padding=1, batchnorm="Affine")
        self.conv8 = FusedMaxPoolConv1dBNReLU(100, 64, 3, padding=1)
        self.fc = Linear(64 * 3, 10, bias=True, wide=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv4(self.conv3(self.conv2(self.conv1(x))))
        x = self.conv8(self.conv7(self.conv6(self.conv5(x))))
        return self.fc(x.flatten(1))


class Embedding(nn.Module):
    """A face's embedding (faceid): 3x48x48 -> 64 numbers, whose direction counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = same(3, 16), halved(16, 32)
        self.conv3, self.conv4 = halved(32, 32), halved(32, 64)
        self.conv5, self.conv6 = same(64, 64), same(64, 64)
        self.pool = AvgPool2d(6)
        self.fc = Linear(64, 64, wide=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2(self.conv1(x)))
        x = self.pool(self.conv6(self.conv5(self.conv4(x))))
        return self.fc(x.flatten(1))


class Detector(nn.Module):
    """A backbone with heads at two sizes (tinierssd): 3x64x64 -> classes and boxes of 8x8 and of 4x4 places."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = same(3, 16), halved(16, 24), same(24, 24)
        self.conv4, self.conv5 = halved(24, 48), same(48, 48)
        self.conv6, self.conv7 = halved(48, 64), same(64, 64)
        self.conv8, self.conv9 = halved(64, 64), same(64, 64)
        self.classes1, self.boxes1 = (Conv2d(64, n, 3, padding=1, wide=True) for n in (classes, 4))
        self.classes2, self.boxes2 = (Conv2d(64, n, 3, padding=1, wide=True) for n in (classes, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.conv3(self.conv2(self.conv1(x)))
        fine = self.conv7(self.conv6(self.conv5(self.conv4(x))))
        coarse = self.conv9(self.conv8(fine))
        return self.classes1(fine), self.boxes1(fine), self.classes2(coarse), self.boxes2(coarse)


class Inverted(nn.Module):
    """Expansion, depthwise layer, projection (mobilenetv2); a sum where sizes allow it."""

    def __init__(self, inputs: int, outputs: int, expansion: int = 4, *, pool: bool = False) -> None:
        super().__init__()
        wide = expansion * inputs
        depthwise = halved if pool else FusedConv2dBNReLU
        more = {} if pool else {"kernel_size": 3, "padding": 1}
        self.expand = FusedConv2dBNReLU(inputs, wide, 1)
        self.depthwise = depthwise(wide, wide, groups=wide, **more)
        self.project = FusedConv2dBN(wide, outputs, 1)
        self.add = Add() if inputs == outputs and not pool else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return y if self.add is None else self.add(x, y)


class Mobile(nn.Module):
    """Inverted residuals for the MAX78002: 1x28x28 -> 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = same(1, 16)
        self.blocks = nn.Sequential(
            Inverted(16, 24, pool=True), Inverted(24, 24), Inverted(24, 40, pool=True), Inverted(40, 40)
        )
        self.head = FusedConv2dBNReLU(40, 128, 1)
        self.pool = AvgPool2d(7)
        self.fc = Linear(128, 10, bias=True, wide=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))


STAND_INS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "residual": (Residual, "MAX78000"),
    "keywords": (Keywords, "MAX78000"),
    "embedding": (Embedding, "MAX78000"),
    "detector": (Detector, "MAX78000"),
    "mobile": (Mobile, "MAX78002"),
}
"""Name -> class and chip."""
