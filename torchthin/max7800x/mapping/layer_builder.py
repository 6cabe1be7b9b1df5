"""The layers so far. Pooling and element-wise operations wait until a convolution can do them on the way in."""

from __future__ import annotations

from dataclasses import replace

from torchthin.graph.opgraph import BRANCH, Op
from torchthin.max7800x.cost.layer import INPUT, Layer
from torchthin.max7800x.mapping.feature_map import Absorbed, FeatureMap, Origin, Pool


class Unmappable(Exception):
    """An operator that the chip cannot do; the message says what it could do instead."""


class LayerBuilder:
    """Layers, in the order in which they run, and the problems that were found."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._origins: list[Origin] = []
        self._steps: dict[int, int] = {INPUT: 0}
        self._results: dict[tuple[int, int], int] = {}
        self._read: set[int] = set()
        self._materialized: dict[FeatureMap, FeatureMap] = {}

    def report(self, problem: str) -> None:
        """Note a problem once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def add(self, layer: Layer, origin: Origin) -> FeatureMap:
        """Append a layer and return its output; a name that is taken gets a number."""
        names = {one.name for one in self.layers}
        name, count = layer.name, 2
        while name in names:
            name, count = f"{layer.name}#{count}", count + 1
        number = len(self.layers)
        weights = [] if origin.weight is None else [one.weight for one in self._origins]
        shares = weights.index(origin.weight) if origin.weight in weights else None
        self.layers.append(replace(layer, name=name, shares=shares))
        self._origins.append(origin)
        self._steps[number] = 0
        sequence = layer.kind == "conv1d"
        return FeatureMap((number,), (0,), layer.out_channels, layer.out_size, sequence, where=name)

    def changeable(self, features: FeatureMap) -> Layer | None:
        """Return the layer whose output `features` is, if a step can still be added to it; else None."""
        number = features.sources[0]
        after_max = features.pool is not None and features.pool.mode == "max" and len(features.sources) == 1
        if not (features.plain or after_max) or number == INPUT or number in self._read:
            return None
        current = self._steps[number] == features.versions[0]
        layer = self.layers[number]
        return layer if layer.has_weights and current and not features.flat else None

    def change(self, features: FeatureMap, layer: Layer, absorbed: Absorbed | None = None) -> FeatureMap:
        """Replace the layer that writes `features` by `layer`, which does one more step.

        An operator that reads the output without this step will be reported.
        """
        number = features.sources[0]
        self.layers[number] = layer
        if absorbed is not None:
            origin = self._origins[number]
            self._origins[number] = replace(origin, absorbed=(*origin.absorbed, absorbed))
        self._steps[number] += 1
        return replace(features, versions=(self._steps[number],))

    def note_result(self, features: FeatureMap, op: Op) -> None:
        """Note that `features` is the first result of an op; a copy that the record adds has no numbers of its own."""
        if features.plain and features.sources[0] != INPUT and 0 <= op.index < BRANCH:
            self._results[features.sources[0], features.versions[0]] = op.index

    def origin(self, number: int) -> Origin:
        """Return where the numbers of a layer are."""
        return replace(self._origins[number], result=self._results.get((number, self._steps[number])))

    def read(self, features: FeatureMap) -> None:
        """Let a layer read the sources: no step can be added to them any more."""
        for number, version in zip(features.sources, features.versions, strict=True):
            self._read.add(number)
            if self._steps[number] != version:
                name = "the input" if number == INPUT else self.layers[number].name
                self.report(
                    f"{name}: its output is read both before and after an activation or a BatchNorm; the chip stores one "
                    "of them"
                )

    def materialize(self, features: FeatureMap) -> FeatureMap:
        """Return the map with nothing pending: pooling or an operation becomes a layer of its own, once."""
        if features.negated:
            raise Unmappable("a negation that no subtraction follows; subtract instead")
        if features.plain:
            return features
        if features not in self._materialized:
            self.read(features)
            self._materialized[features] = self.add(_passthrough(features), Origin())
        return replace(self._materialized[features], flat=features.flat, sequence=features.sequence)


def _passthrough(features: FeatureMap) -> Layer:
    """Return a layer that does what is pending and nothing else."""
    where = features.pool.where if features.pool and not features.eltwise else features.where
    layer = Layer(
        name=where or "forward",
        kind="passthrough",
        in_channels=features.channels,
        out_channels=features.channels,
        in_size=features.size,
        bias=False,
        sources=features.sources,
        eltwise=features.eltwise,
        operands=features.operands,
    )
    return pooled_layer(layer, features.pool)


def pooled_layer(layer: Layer, pool: Pool | None) -> Layer:
    """Return `layer` with the pooling before it."""
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
