"""The layers so far. Pooling and element-wise operations wait until a convolution can do them on the way in."""

from __future__ import annotations

from dataclasses import replace

from torchthin.graph.opgraph import Op
from torchthin.max7800x.cost.layer import INPUT, Layer
from torchthin.max7800x.mapping.feature_map import Features, Fold, Origin, Pool


class Unmappable(Exception):
    """An operator that the chip cannot do; the message says what it could do instead."""


class Draft:
    """Layers, in the order in which they run, and what was found in the way."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.weights: list[str | None] = []
        self._ops: list[Op | None] = []
        self._folds: list[tuple[Fold, ...]] = []
        self._done: dict[tuple[int, int], int] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._steps: dict[int, int] = {INPUT: 0}
        self._read: set[int] = set()
        self._settled: dict[Features, Features] = {}

    def report(self, reason: str) -> None:
        """Note once what is in the way."""
        if reason not in self.problems:
            self.problems.append(reason)

    def add(self, layer: Layer, weight: str | None = None, op: Op | None = None) -> Features:
        """Append a layer, whose kernels `op` makes, and return its output; a name that is taken gets a number."""
        names = {one.name for one in self.layers}
        name, count = layer.name, 2
        while name in names:
            name, count = f"{layer.name}#{count}", count + 1
        number = len(self.layers)
        shares = self.weights.index(weight) if weight in self.weights and weight is not None else None
        self.layers.append(replace(layer, name=name, shares=shares))
        self.weights.append(weight)
        self._ops.append(op)
        self._folds.append(())
        self._steps[number] = 0
        sequence = layer.kind == "conv1d"
        return Features((number,), (0,), layer.out_channels, layer.out_size, sequence, where=name)

    def changeable(self, features: Features) -> Layer | None:
        """Return the layer whose output `features` is, if a step can still be added to it; else None."""
        number = features.sources[0]
        behind_max = features.pool is not None and features.pool.mode == "max" and len(features.sources) == 1
        if not (features.plain or behind_max) or number == INPUT or number in self._read:
            return None
        current = self._steps[number] == features.versions[0]
        layer = self.layers[number]
        return layer if layer.has_weights and current and not features.flat else None

    def change(self, features: Features, layer: Layer, fold: Fold | None = None) -> Features:
        """Let `layer`, which took in `fold`, stand for the one that makes `features`.

        What reads it without this step is in the way.
        """
        number = features.sources[0]
        self.layers[number] = layer
        self._folds[number] += () if fold is None else (fold,)
        self._steps[number] += 1
        return replace(features, versions=(self._steps[number],))

    def done(self, features: Features, op: int) -> None:
        """Note that the first result of the op of that index is what `features` says."""
        if features.plain and features.sources[0] != INPUT:
            self._done[features.sources[0], features.versions[0]] = op

    def origin(self, number: int) -> Origin:
        """Return where the numbers of a layer are."""
        done = self._done.get((number, self._steps[number]))
        return Origin(self._ops[number], self._folds[number], done)

    def take(self, features: Features) -> None:
        """Let a layer read the sources: no step can be added to them any more."""
        for number, version in zip(features.sources, features.versions, strict=True):
            self._read.add(number)
            if self._steps[number] != version:
                name = "the input" if number == INPUT else self.layers[number].name
                self.report(
                    f"{name}: its output is read before and behind an activation or a BatchNorm; the chip stores one of them"
                )

    def settle(self, features: Features, *, named: str = "") -> Features:
        """Return the features with nothing pending: pooling or an operation becomes a layer of its own, once."""
        if features.negated:
            raise Unmappable("a negation that no subtraction takes up; subtract instead")
        if features.plain:
            return features
        if features not in self._settled:
            self.take(features)
            layer = passthrough(features, named or features.where)
            self._settled[features] = self.add(layer)
        settled = self._settled[features]
        return replace(settled, flat=features.flat, sequence=features.sequence)


def passthrough(features: Features, name: str) -> Layer:
    """Return a layer that does what is pending and nothing else."""
    where = features.pool.where if features.pool and not features.eltwise else name
    return pooled_layer(
        Layer(
            name=where or "forward",
            kind="passthrough",
            in_channels=features.channels,
            out_channels=features.channels,
            in_size=features.size,
            bias=False,
            sources=features.sources,
            eltwise=features.eltwise,
            operands=features.operands,
        ),
        features.pool,
    )


def pooled_layer(layer: Layer, pool: Pool | None) -> Layer:
    """Return `layer` with the pooling in front."""
    if pool is None:
        return layer
    return replace(
        layer,
        pool=pool.size,
        pool_stride=pool.stride,
        pool_dilation=pool.dilation,
        pool_mode=pool.mode,
        pool_first=pool.first,
    )
