"""Stand-ins for ai8x-training's layers: same names, state-dict keys, shapes and results, without ADI's tools.

They exist so that models written for the MAX78000 and MAX78002 can be built, tested, pruned and scored where
ai8x-training is not installed. A state dict moves both ways with `strict=True`. What the chips' training tool
checks while building (kernel sizes, padding, strides) is checked here too; simulation mode is not offered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchthin.errors import ConfigError
from torchthin.max7800x.ai8x.base import Ai8xLayer
from torchthin.max7800x.ai8x.quantization import limited

MAX_LINEAR_FEATURES = 1024


def _check(name: str, value: Any, allowed: str, good: bool) -> None:
    if not good:
        raise ConfigError(f"The {name} of an ai8x layer must be {allowed}. Got {value!r}.")


_POOLS = {
    (1, "Max"): nn.MaxPool1d, (1, "Avg"): nn.AvgPool1d, (2, "Max"): nn.MaxPool2d, (2, "Avg"): nn.AvgPool2d,
}  # fmt: skip
"""Dimensions and kind -> pooling layer."""


def _make_pool(kind: str | None, size: int, stride: int | None, dimensions: int = 2) -> nn.Module | None:
    _check("pooling", kind, "'Max', 'Avg' or None", kind in ("Max", "Avg", None))
    _check("pool_size", size, "from 1 to 16", 1 <= size <= 16)
    return None if kind is None else _POOLS[dimensions, kind](kernel_size=size, stride=stride or size)


def _make_bn(
    kind: str | None, channels: int, bias: bool, eps: float, momentum: float, dimensions: int = 2
) -> nn.BatchNorm1d | nn.BatchNorm2d | None:
    _check("batchnorm", kind, "'Affine', 'NoAffine' or None", kind in ("Affine", "NoAffine", None))
    if kind is None:
        return None
    _check("bias", bias, "True when there is a BatchNorm", bias)
    layer = nn.BatchNorm1d if dimensions == 1 else nn.BatchNorm2d
    return layer(channels, eps=eps, momentum=momentum, affine=kind == "Affine")


def _check_activation(activation: str | None, wide: bool) -> None:
    _check("activation", activation, "'ReLU' or None, and None when wide", activation in (None, "ReLU"))
    _check("activation", activation, "None when wide", not (wide and activation))


class Conv2d(Ai8xLayer):
    """Optional pooling, 2-d convolution, optional BatchNorm, optional ReLU.

    `kernel_size` None builds a layer that only pools. `wide` keeps 32-bit outputs (limits ±32768, no scaling)
    and excludes an activation. Raises ConfigError for what the chip cannot do.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | None,
        pooling: str | None = None,
        pool_size: int = 2,
        pool_stride: int | None = 2,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        activation: str | None = None,
        wide: bool = False,
        batchnorm: str | None = None,
        groups: int = 1,
        eps: float = 1e-5,
        momentum: float = 0.05,
    ) -> None:
        _check("kernel_size", kernel_size, "1, 3 or None", kernel_size in (1, 3, None))
        _check("padding", padding, "0, 1 or 2", padding in (0, 1, 2))
        _check("stride", stride, "1, 2 or 3, and 1 after pooling", stride in ((1,) if pooling else (1, 2, 3)))
        _check_activation(activation, wide)
        op = None
        if kernel_size is not None:
            op = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)
        super().__init__(
            op,
            pool=_make_pool(pooling, pool_size, pool_stride),
            bn=_make_bn(batchnorm, out_channels, bias, eps, momentum),
            relu=activation == "ReLU",
            wide=wide,
        )


class FusedConv2dReLU(Conv2d, activation="ReLU"):
    """Convolution and ReLU."""


class FusedConv2dBN(Conv2d, batchnorm="Affine"):
    """Convolution and BatchNorm."""


class FusedConv2dBNReLU(FusedConv2dReLU, batchnorm="Affine"):
    """Convolution, BatchNorm and ReLU."""


class FusedMaxPoolConv2d(Conv2d, pooling="Max"):
    """Max pooling and convolution."""


class FusedMaxPoolConv2dReLU(FusedMaxPoolConv2d, activation="ReLU"):
    """Max pooling, convolution and ReLU."""


class FusedMaxPoolConv2dBNReLU(FusedMaxPoolConv2dReLU, batchnorm="Affine"):
    """Max pooling, convolution, BatchNorm and ReLU."""


class FusedAvgPoolConv2dReLU(Conv2d, pooling="Avg", activation="ReLU"):
    """Average pooling, convolution and ReLU."""


class MaxPool2d(FusedMaxPoolConv2d):
    """Max pooling alone; it still has the six settings."""

    def __init__(self, kernel_size: int, stride: int | None = None) -> None:
        super().__init__(0, 0, None, pool_size=kernel_size, pool_stride=stride)


class AvgPool2d(Conv2d):
    """Average pooling alone; it still has the six settings."""

    def __init__(self, kernel_size: int, stride: int | None = None) -> None:
        super().__init__(0, 0, None, pooling="Avg", pool_size=kernel_size, pool_stride=stride)


class Conv1d(Ai8xLayer):
    """Optional pooling, 1-d convolution, optional BatchNorm, optional ReLU; inputs are (N, C, L).

    Raises ConfigError for what the chip cannot do.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        pooling: str | None = None,
        pool_size: int = 2,
        pool_stride: int | None = 2,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        activation: str | None = None,
        wide: bool = False,
        batchnorm: str | None = None,
        groups: int = 1,
        eps: float = 1e-5,
        momentum: float = 0.05,
    ) -> None:
        _check("kernel_size", kernel_size, "from 1 to 9", kernel_size in range(1, 10))
        _check("padding", padding, "0, 1 or 2", padding in (0, 1, 2))
        _check("stride", stride, "1", stride == 1)
        _check_activation(activation, wide)
        op = nn.Conv1d(in_channels, out_channels, kernel_size, 1, padding, dilation, groups, bias)
        super().__init__(
            op,
            pool=_make_pool(pooling, pool_size, pool_stride, 1),
            bn=_make_bn(batchnorm, out_channels, bias, eps, momentum, 1),
            relu=activation == "ReLU",
            wide=wide,
        )


class FusedConv1dReLU(Conv1d, activation="ReLU"):
    """1-d convolution and ReLU."""


class FusedConv1dBNReLU(FusedConv1dReLU, batchnorm="Affine"):
    """1-d convolution, BatchNorm and ReLU."""


class FusedMaxPoolConv1dReLU(FusedConv1dReLU, pooling="Max"):
    """Max pooling, 1-d convolution and ReLU."""


class FusedMaxPoolConv1dBNReLU(FusedMaxPoolConv1dReLU, batchnorm="Affine"):
    """Max pooling, 1-d convolution, BatchNorm and ReLU."""


class FusedAvgPoolConv1dReLU(FusedConv1dReLU, pooling="Avg"):
    """Average pooling, 1-d convolution and ReLU."""


class Linear(Ai8xLayer):
    """Linear layer with optional ReLU; at most 1024 features in and out. `bias` is off unless it is True."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool | None = None,
        activation: str | None = None,
        wide: bool = False,
    ) -> None:
        _check("in_features", in_features, "at most 1024", in_features <= MAX_LINEAR_FEATURES)
        _check("out_features", out_features, "at most 1024", out_features <= MAX_LINEAR_FEATURES)
        _check("activation", activation, "None when wide", not (wide and activation))
        super().__init__(
            nn.Linear(in_features, out_features, bias is True), relu=activation == "ReLU", wide=wide
        )

    def _conv_forward(
        self, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return nn.functional.linear(values, weight, bias)


class FusedLinearReLU(Linear, activation="ReLU"):
    """Linear layer and ReLU."""


class Add(nn.Module):
    """Element-wise sum of any number of tensors of one shape, limited to [-1, 127/128]; no parameters."""

    def forward(self, first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """Return the limited sum."""
        for other in others:
            first = torch.add(first, other)
        return limited(first)
