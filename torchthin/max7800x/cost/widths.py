"""A network at other widths: its layers, its cycles and the words of its deepest processor, each layer costed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.cycles import START_CYCLES, cycles
from torchthin.max7800x.cost.kernels import Kernels, place_kernels
from torchthin.max7800x.cost.layer import INPUT, Layer
from torchthin.max7800x.cost.words import kernel_words, passes, weight_bytes, written_words


class Resized:
    """A network whose layers with kernels can have other output widths; inputs follow from what they read."""

    def __init__(self, layers: Sequence[Layer], chip: Chip) -> None:
        self._layers = tuple(layers)
        self._chip = chip
        self._sized: dict[tuple[int, int, int], Layer] = {}
        self._cycles: dict[tuple[int, int, int], int] = {}
        self._kernels: dict[tuple[int, int, int], Kernels] = {}

    def _keys(self, outputs: Mapping[int, int]) -> list[tuple[int, int, int]]:
        made: list[int] = []
        keys = []
        for number, layer in enumerate(self._layers):
            known = [made[source] if source != INPUT else None for source in layer.sources]
            if None in known:
                into = layer.in_channels
            elif layer.operands > 1:
                into = known[0] or 0
            else:
                into = sum(width or 0 for width in known)
            out = outputs.get(number, layer.out_channels) if layer.has_weights else into
            made.append(out)
            keys.append((number, into, out))
        return keys

    def _layer(self, key: tuple[int, int, int]) -> Layer:
        if key not in self._sized:
            number, into, out = key
            layer = self._layers[number]
            groups = into if layer.depthwise else 1
            self._sized[key] = replace(layer, in_channels=into, out_channels=out, conv_groups=groups)
        return self._sized[key]

    def layers(self, outputs: Mapping[int, int]) -> tuple[Layer, ...]:
        """Return the network with `outputs`: layer number -> output channels."""
        return tuple(self._layer(key) for key in self._keys(outputs))

    def cycles(self, outputs: Mapping[int, int]) -> int:
        """Return the network's cycles, kernels at word 0 (their place matters only for pooling behind an operation)."""
        total = START_CYCLES
        for key in self._keys(outputs):
            if key not in self._cycles:
                self._cycles[key] = cycles(self._layer(key), self._chip)
            total += self._cycles[key]
        return total

    def deepest_words(self, outputs: Mapping[int, int]) -> int:
        """Return the words of the deepest processor, all feature maps at processor 0."""
        return place_kernels([self._kernel(key) for key in self._keys(outputs)], self._chip).deepest

    def weight_bytes(self, outputs: Mapping[int, int]) -> int:
        """Return weights times bits; what two layers share on the same processors counts once."""
        keys = self._keys(outputs)
        kernels = [self._kernel(key) for key in keys]
        return sum(
            weight_bytes(self._layer(key))
            for key, kernel in zip(keys, kernels, strict=True)
            if kernel.shares is None or kernels[kernel.shares].processors != kernel.processors
        )

    def _kernel(self, key: tuple[int, int, int]) -> Kernels:
        if key not in self._kernels:
            layer, chip = self._layer(key), self._chip
            processors = range(passes(layer.in_channels, chip)[1])
            words = kernel_words(layer, chip)
            written = written_words(layer, chip)
            self._kernels[key] = Kernels(
                layer.name, words, processors, layer.depthwise, written, layer.shares
            )
        return self._kernels[key]
