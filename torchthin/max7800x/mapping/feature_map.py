"""What is known of a tensor on its way through the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torchthin.graph.opgraph import Op
from torchthin.max7800x.cost.layer import Layer, Size


@dataclass(frozen=True)
class Pool:
    """A pooling that no layer does yet."""

    mode: Literal["max", "average"]
    size: Size
    stride: Size
    dilation: Size
    first: bool
    """Before the element-wise operation, not behind it."""
    where: str


@dataclass(frozen=True)
class Features:
    """Feature maps on the chip: outputs of layers, and what is to be done to them before the next one."""

    sources: tuple[int, ...]
    """Numbers of layers; several for operands or for parts of a concatenation."""
    versions: tuple[int, ...]
    """How many steps (BatchNorm, activation) of each source it has behind it."""
    channels: int
    size: Size
    """Before pooling."""
    sequence: bool = False
    """Rows only, from a model of 1-d layers."""
    flat: bool = False
    """Rows, columns and channels as one axis."""
    eltwise: Literal["add", "sub", "xor", "or"] | None = None
    pool: Pool | None = None
    negated: bool = False
    shared: bool = False
    """Whether several operators read it: then what is pending is done once, by a layer of its own."""
    where: str = ""
    """Module that joined the operands or parts."""

    @property
    def operands(self) -> int:
        """Number of operands of the element-wise operation that is pending; 1: none."""
        return len(self.sources) if self.eltwise else 1

    @property
    def plain(self) -> bool:
        """Whether it is the output of one layer as it is."""
        return len(self.sources) == 1 and self.pool is None and not self.negated

    @property
    def pooled(self) -> Size:
        """Size behind the pooling."""
        if self.pool is None:
            return self.size
        like = Layer(
            name="",
            kind="passthrough",
            in_channels=1,
            out_channels=1,
            in_size=self.size,
            pool=self.pool.size,
            pool_stride=self.pool.stride,
            pool_dilation=self.pool.dilation,
        )
        return like.pooled_size


@dataclass(frozen=True)
class Outside:
    """A tensor that the chip does not compute. At the end of a model the host does; in front of a layer that is in the way."""

    reason: str
    """The operator, its place, and what the chip could do instead."""
    behind: tuple[Features, ...]
    """Maps on the chip that it is computed from."""
    like: Features | None = None
    """What it would be without that operator, where shapes allow; the layers behind are looked at all the same."""


@dataclass(frozen=True)
class Fold:
    """An op that a layer takes in."""

    op: Op
    """BatchNorm, product or sum with a constant."""
    data: str
    """Name of the argument that is the feature map."""
    inside: bool
    """In an ai8x layer, where BatchNorm is followed by a division by 4."""


@dataclass(frozen=True)
class Origin:
    """Where in the record the numbers of a layer are."""

    op: Op | None = None
    """Makes the kernels; None without."""
    folds: tuple[Fold, ...] = ()
    """What the layer takes in, in its order."""
    done: int | None = None
    """Index of the op whose first result the layer stores; None where there is none, such as behind a copy."""


@dataclass(frozen=True)
class ChipMapping:
    """What of a model runs on a chip."""

    layers: tuple[Layer, ...]
    """In the order in which they run."""
    weights: tuple[str | None, ...]
    """The parameter that each layer's kernels come from; None without kernels."""
    problems: tuple[str, ...]
    """What stands between layers and does not map: path, operator, reason."""
    outside: tuple[str, ...]
    """What the host computes behind the network."""
    notes: tuple[str, ...]
    """Layers that look different on the chip: folds and copies."""
    origins: tuple[Origin, ...] = ()
    """Of each layer."""
    outputs: tuple[int, ...] = ()
    """Numbers of the layers whose maps the model returns, or the host goes on with."""
