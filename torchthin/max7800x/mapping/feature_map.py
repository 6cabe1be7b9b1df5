"""What is known of a tensor on its way through the model, and what the model becomes."""

from __future__ import annotations

from dataclasses import dataclass

from torchthin.graph.opgraph import Op
from torchthin.max7800x.cost.layer import Eltwise, Layer, PoolMode, Size, pooled_size


@dataclass(frozen=True)
class Pool:
    """A pooling that no layer does yet."""

    mode: PoolMode
    size: Size
    stride: Size
    dilation: Size
    first: bool
    """Before the element-wise operation, not after it."""
    where: str


@dataclass(frozen=True)
class FeatureMap:
    """Feature maps on the chip: outputs of layers, and what is still to be done to them before the next one."""

    sources: tuple[int, ...]
    """Numbers of layers; several for operands or for parts of a concatenation."""
    versions: tuple[int, ...]
    """How many steps (BatchNorm, activation) of each source come before it."""
    channels: int
    size: Size
    """Before pooling."""
    sequence: bool = False
    """Rows only, from a model of 1-d layers."""
    flat: bool = False
    """Rows, columns and channels as one axis."""
    eltwise: Eltwise | None = None
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
    def concatenated(self) -> bool:
        """Whether it is several parts side by side, with nothing pending."""
        return len(self.sources) > 1 and self.eltwise is None and self.pool is None

    @property
    def pooled(self) -> Size:
        """Size after the pooling."""
        pool = self.pool
        return self.size if pool is None else pooled_size(self.size, pool.size, pool.stride, pool.dilation)


@dataclass(frozen=True)
class HostTensor:
    """A tensor that the chip does not compute. At the end of a model the host does; before a layer it is a problem."""

    reason: str
    """The operator, its place, and what the chip could do instead."""
    inputs: tuple[FeatureMap, ...]
    """Maps on the chip that it is computed from."""
    like: FeatureMap | None = None
    """What it would be without that operator, where shapes allow; the layers after it are looked at all the same."""


@dataclass(frozen=True)
class Absorbed:
    """An op that a layer takes into its kernels and bias."""

    op: Op
    """BatchNorm, product or sum with a constant."""
    data: str
    """Name of the argument that is the feature map."""
    inside: bool
    """In an ai8x layer, where BatchNorm is followed by a division by 4."""


@dataclass(frozen=True)
class Origin:
    """Where in the record the numbers of a layer are; all empty for a layer that the chip needs, such as a copy."""

    weight: str | None = None
    """The parameter that its kernels come from."""
    op: Op | None = None
    """Computes with the kernels; None without."""
    absorbed: tuple[Absorbed, ...] = ()
    """In the order in which they are computed."""
    result: int | None = None
    """Index of the op whose first result the layer stores; None where there is none."""


@dataclass(frozen=True)
class ChipMapping:
    """What of a model runs on a chip."""

    layers: tuple[Layer, ...]
    """In the order in which they run."""
    origins: tuple[Origin, ...]
    """Of each layer."""
    problems: tuple[str, ...]
    """Operators between layers that do not map: path, operator, reason."""
    outside: tuple[str, ...]
    """What the host computes after the network."""
    notes: tuple[str, ...]
    """Layers that look different on the chip: folded inputs and copies."""
    outputs: tuple[int, ...]
    """Numbers of the layers whose maps the model returns, or the host reads."""

    @property
    def weights(self) -> tuple[str | None, ...]:
        """The parameter that each layer's kernels come from; None without kernels."""
        return tuple(origin.weight for origin in self.origins)
