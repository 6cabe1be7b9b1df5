"""Networks whose files went through ADI's quantize.py and ai8xize.py, each with the shape of its input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pose_demo.student import load_student
from torchthin import Chip, prune
from torchthin.max7800x.ai8x.base import fuse_batch_norm_, initiate_qat
from torchthin.max7800x.ai8x.layers import Add, Conv2d, FusedConv2dBNReLU, FusedMaxPoolConv2dBNReLU, Linear

Shape = tuple[int, ...]


class Net(nn.Module):
    """A module whose forward is a function of its layers."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, *given: Tensor) -> Any:
        return self.function(self, *given)


def alive(model: nn.Module) -> nn.Module:
    """Give BatchNorms statistics and values as training leaves them."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.3, 2.0),
                (module.weight.data, 0.5, 1.5), (module.bias.data, -0.3, 0.3),
            ):  # fmt: skip
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return model.eval()


def conv(into: int, out: int, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, **{"padding": kernel // 2, **more})


def block(into: int, out: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(conv(into, out, kernel, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def pose_thin() -> nn.Module:
    """The shipped pose student at 0.75 of its cycles."""
    images = torch.zeros(1, 3, 128, 128)
    keep = ("heat_out", "paf_out")
    return prune(load_student(), images, Chip("MAX78000", cycles="0.75x"), exclude=keep).model


def pose_quantised() -> nn.Module:
    """The shipped pose student in quantisation-aware mode."""
    model = load_student()
    fuse_batch_norm_(model)
    initiate_qat(model)
    return model


def residual_quantised() -> nn.Module:
    """Ai8x layers in quantisation-aware mode, 4 bits of weights in one of them."""
    model = alive(Ai8xResidual())
    fuse_batch_norm_(model)
    initiate_qat(model)
    model.conv3.set_quantization(4)  # type: ignore[union-attr, operator]
    return model


def chain() -> nn.Module:
    """Plain layers: strided first layer, BatchNorm, pooling of both kinds, a transposed convolution, Linear behind flatten."""
    return nn.Sequential(
        conv(3, 20, stride=2), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2),
        conv(20, 72), nn.ReLU(), conv(72, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2),
        nn.ConvTranspose2d(32, 24, 3, 2, 1, 1), nn.ReLU(), nn.MaxPool2d(2), conv(24, 16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 16, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Two residual blocks and a projection behind a stem."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = block(3, width)
        self.one, self.two = block(width, width), conv(width, width)
        self.three, self.four = block(width, width), conv(width, width)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = x + self.two(self.one(x))
        x = x + self.four(self.three(x))
        return self.fc(x.mean((2, 3)))


class Ai8xResidual(nn.Module):
    """The same with ai8x layers, the sum on the way into a convolution."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.conv1 = FusedConv2dBNReLU(3, width, 3, padding=1)
        self.conv2 = FusedConv2dBNReLU(width, width, 3, padding=1)
        self.add = Add()
        self.conv3 = FusedMaxPoolConv2dBNReLU(width, 44, 3, padding=1)
        self.conv4 = FusedConv2dBNReLU(44, 16, 1)
        self.fc = Linear(16 * 64, 10, bias=True, wide=True)

    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x)
        x = self.conv4(self.conv3(self.add(x, self.conv2(x))))
        return self.fc(x.flatten(1))


class Fire(nn.Module):
    """Two convolutions side by side, concatenated, and again in two passes."""

    def __init__(self, expand: int = 24, wide: int = 40) -> None:
        super().__init__()
        self.squeeze = block(3, 16, 1)
        self.a, self.b = block(16, expand, 1), block(16, expand)
        self.c, self.d = block(2 * expand, wide, 1), block(2 * expand, wide)
        self.last = conv(2 * wide, 10, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.squeeze(x)
        x = torch.cat([self.a(x), self.b(x)], 1)
        return self.last(torch.cat([self.c(x), self.d(x)], 1))


def sequence() -> nn.Module:
    """1-d layers: a longer kernel, dilation within nine taps, pooling, Linear."""
    return nn.Sequential(
        nn.Conv1d(16, 40, 3, padding=1), nn.BatchNorm1d(40), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(40, 36, 6), nn.ReLU(), nn.Conv1d(36, 24, 3, dilation=2), nn.ReLU(), nn.AvgPool1d(2),
        nn.Conv1d(24, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 3, 6),
    )  # fmt: skip


def linear() -> nn.Module:
    """A digit classifier: pooling, flatten, two linear layers."""
    return nn.Sequential(
        conv(1, 12), nn.ReLU(), nn.MaxPool2d(2), conv(12, 68), nn.ReLU(), nn.MaxPool2d(2), conv(68, 12),
        nn.ReLU(), nn.Flatten(), nn.Linear(12 * 49, 48), nn.ReLU(), nn.Linear(48, 10),
    )  # fmt: skip


def two_heads() -> nn.Module:
    """Two outputs, and a layer that is called twice."""

    def forward(net: Any, x: Tensor) -> Any:
        x = net.again(net.again(net.stem(x).relu()).relu()).relu()
        return net.left(x), net.right(x)

    layers = {"stem": conv(3, 16), "again": conv(16, 16), "left": conv(16, 9, 1), "right": conv(16, 70, 1)}
    return Net(forward, **layers)


def depthwise() -> nn.Module:
    """Depthwise layers, for the MAX78002."""
    return nn.Sequential(
        conv(3, 40), nn.BatchNorm2d(40), nn.ReLU(), conv(40, 40, groups=40), nn.BatchNorm2d(40), nn.ReLU(),
        conv(40, 64, 1), nn.ReLU(), nn.MaxPool2d(2), conv(64, 10, 1),
    )  # fmt: skip


def wide_image() -> nn.Module:
    """A picture that fits only in CHW form."""
    return nn.Sequential(
        nn.MaxPool2d(2), conv(3, 16), nn.ReLU(), nn.MaxPool2d(4), Conv2d(16, 8, 1), nn.Flatten(), nn.Linear(8 * 256, 5)
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "pose": (load_student, (3, 128, 128)),
    "pose_thin": (pose_thin, (3, 128, 128)),
    "pose_quantised": (pose_quantised, (3, 128, 128)),
    "chain": (chain, (3, 32, 32)),
    "residual": (Residual, (3, 16, 16)),
    "ai8x_residual": (Ai8xResidual, (3, 16, 16)),
    "residual_quantised": (residual_quantised, (3, 16, 16)),
    "fire": (Fire, (3, 16, 16)),
    "sequence": (sequence, (16, 40)),
    "linear": (linear, (1, 28, 28)),
    "two_heads": (two_heads, (3, 16, 16)),
    "depthwise": (depthwise, (3, 16, 16)),
    "wide_image": (wide_image, (3, 128, 128)),
}
CHIPS = ("MAX78000", "MAX78002")


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network, always the same one, and an input in [-1, 127/128]."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = build().eval()
    if not name.startswith("pose"):
        model = alive(model)
    images = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1)) / 2
    return model, (images * 128).floor().clamp(-128, 127) / 128
