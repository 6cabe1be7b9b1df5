"""A layer as a chip sees it: element-wise operation and pooling on the way in, convolution, activation on the way out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["conv2d", "conv1d", "convtranspose2d", "linear", "passthrough"]
Size = tuple[int, int]
INPUT = -1
"""The network's input, among the numbers of the layers that a layer reads."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Sizes are (rows, columns); a 1-d layer has one column. Units: channels, pixels, bits."""

    name: str
    kind: Kind
    in_channels: int
    """Channels of one operand; of all parts together where they are concatenated."""
    out_channels: int
    in_size: Size
    """Before pooling."""
    kernel: Size = (1, 1)
    padding: Size = (0, 0)
    stride: Size = (1, 1)
    dilation: Size = (1, 1)
    conv_groups: int = 1
    pool: Size = (1, 1)
    pool_stride: Size = (1, 1)
    pool_mode: Literal["max", "average"] = "max"
    pool_dilation: Size = (1, 1)
    operands: int = 1
    """Feature maps of an element-wise operation."""
    eltwise: Literal["add", "sub", "xor", "or"] | None = None
    pool_first: bool = True
    """Whether operands are pooled before they are combined."""
    flatten: bool = False
    """A linear layer over all pixels of a feature map."""
    bias: bool = True
    activation: Literal["relu", "abs"] | None = None
    weight_bits: int = 8
    wide: bool = False
    """Outputs of 32 bits."""
    sources: tuple[int, ...] = (INPUT,)
    """Numbers of the layers it reads: one for each operand, or the parts of a concatenation."""
    shares: int | None = None
    """Number of an earlier layer with the same weights and biases; where processors agree they are stored once."""

    @property
    def pooled_size(self) -> Size:
        """Size behind the pooling."""
        rows, columns = (
            (size + stride - pool - dilation + 1) // stride
            for size, stride, pool, dilation in zip(
                self.in_size, self.pool_stride, self.pool, self.pool_dilation, strict=True
            )
        )
        return rows, columns

    @property
    def out_size(self) -> Size:
        """Size of the output."""
        if self.flatten or self.kind == "passthrough":
            return (1, 1) if self.flatten else self.pooled_size
        sizes = zip(self.pooled_size, self.kernel, self.padding, self.stride, self.dilation, strict=True)
        if self.kind == "convtranspose2d":  # the chip's output padding is always 1
            rows, columns = ((n - 1) * s - 2 * p + d * (k - 1) + 2 for n, k, p, s, d in sizes)
        else:
            rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in sizes)
        return rows, columns

    @property
    def kernel_area(self) -> int:
        """Weights of one kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def has_weights(self) -> bool:
        """Whether there are kernels."""
        return self.kind != "passthrough"

    @property
    def pools(self) -> bool:
        """Whether pooling combines pixels."""
        return self.pool != (1, 1)

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved alone."""
        return self.conv_groups > 1

    @property
    def weight_count(self) -> int:
        """Number of weights as trained, without padding."""
        if not self.has_weights:
            return 0
        pixels = self.in_size[0] * self.in_size[1] if self.flatten else 1
        return self.out_channels * self.in_channels // self.conv_groups * self.kernel_area * pixels

    def as_executed(self) -> Layer:
        """Return the layer in the form the chip executes it.

        A dilated 1-d convolution becomes a longer kernel, with zeros, where it fits nine taps; else the sequence is laid out in
        rows of `dilation` pixels and convolved with 3x3 kernels.
        """
        gap = self.dilation[0]
        if self.kind != "conv1d" or gap == 1:
            return self
        taps = (self.kernel[0] - 1) * gap + 1
        if taps <= 9:
            return replace(self, kernel=(taps, 1), dilation=(1, 1))
        rows = -(-self.pooled_size[0] // gap)
        return replace(
            self,
            kind="conv2d",
            kernel=(3, 3),
            padding=(1, 1),
            dilation=(1, 1),
            in_size=(rows, gap),
            pool=(1, 1),
            pool_stride=(1, 1),
            pool_dilation=(1, 1),
        )
