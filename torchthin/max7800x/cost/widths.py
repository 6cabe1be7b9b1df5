"""A network at other widths: its layers, its cycles and the words of its deepest processor, each layer costed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.cycles import START_CYCLES, cycles
from torchthin.max7800x.cost.kernel_memory import (
    LayerKernels,
    layer_kernels,
    place_kernels,
    stored_weight_bytes,
)
from torchthin.max7800x.cost.layer import INPUT, Layer, output_slots, passes


def useful_widths(channels: int, chip: ChipSpec) -> tuple[int, ...]:
    """Return the widths below `channels` at which a chip wastes nothing, largest first, after `channels` itself.

    Beyond 64 channels every pass computes a multiple of 4, so only multiples of 4 times the number of passes differ in cost: of
    4 up to 64, of 8 up to 128, of 12 up to 192.

    >>> from torchthin.max7800x.chips import MAX78000
    >>> useful_widths(76, MAX78000)
    (76, 72, 64, 60, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4)
    >>> useful_widths(3, MAX78000)
    (3,)
    """
    step = chip.processors_per_memory
    full = [width for width in range(step, channels, step) if output_slots(width, chip) == width]
    return (channels, *reversed(full))


class _Sized(NamedTuple):
    """A layer at its widths; what is known of it is kept under this key."""

    number: int
    into: int
    out: int


class WidthModel:
    """A network whose layers with kernels can have other output widths; inputs follow from what they read."""

    def __init__(self, layers: Sequence[Layer], chip: ChipSpec) -> None:
        self._layers = tuple(layers)
        self._chip = chip
        self._sized: dict[_Sized, Layer] = {}
        self._cycles: dict[_Sized, int] = {}
        self._kernels: dict[_Sized, LayerKernels] = {}

    def _keys(self, outputs: Mapping[int, int]) -> list[_Sized]:
        keys: list[_Sized] = []
        for number, layer in enumerate(self._layers):
            if INPUT in layer.sources:
                into = layer.in_channels
            elif layer.operands > 1:
                into = keys[layer.sources[0]].out
            else:
                into = sum(keys[source].out for source in layer.sources)
            out = outputs.get(number, layer.out_channels) if layer.has_weights else into
            keys.append(_Sized(number, into, out))
        return keys

    def _layer(self, key: _Sized) -> Layer:
        if key not in self._sized:
            layer = self._layers[key.number]
            groups = key.into if layer.depthwise else 1
            self._sized[key] = replace(layer, in_channels=key.into, out_channels=key.out, conv_groups=groups)
        return self._sized[key]

    def _layer_kernels(self, outputs: Mapping[int, int]) -> list[LayerKernels]:
        keys = self._keys(outputs)
        for key in keys:
            if key not in self._kernels:
                layer = self._layer(key)
                processors = range(passes(layer.in_channels, self._chip)[1])
                self._kernels[key] = layer_kernels(layer, self._chip, processors)
        return [self._kernels[key] for key in keys]

    def layers(self, outputs: Mapping[int, int]) -> tuple[Layer, ...]:
        """Return the network with `outputs`: layer number -> output channels."""
        return tuple(self._layer(key) for key in self._keys(outputs))

    def cycles(self, outputs: Mapping[int, int]) -> int:
        """Return the network's cycles, kernels at word 0 (their place matters only for pooling after an operation)."""
        total = START_CYCLES
        for key in self._keys(outputs):
            if key not in self._cycles:
                self._cycles[key] = cycles(self._layer(key), self._chip)
            total += self._cycles[key]
        return total

    def deepest_words(self, outputs: Mapping[int, int]) -> int:
        """Return the words of the deepest processor, all feature maps at processor 0."""
        return place_kernels(self._layer_kernels(outputs), self._chip).deepest

    def weight_bytes(self, outputs: Mapping[int, int]) -> int:
        """Return weights times bits; what two layers share on the same processors counts once."""
        return stored_weight_bytes(self.layers(outputs), self._layer_kernels(outputs))
